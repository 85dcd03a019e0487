//! `xlb completions` and `xlb manual`: what packages bring beside the binary.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;

/// Print a shell's completions of xlb's command line
///
/// Packages bring those of bash, zsh and fish already.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  xlb completions bash > /etc/bash_completion.d/xlb
  xlb completions zsh > /usr/local/share/zsh/site-functions/_xlb")]
pub(super) struct Completions {
    shell: Shell,
}

/// Write the manual pages to a folder, one of xlb and one of each command
#[derive(Debug, clap::Args)]
pub(super) struct Manual {
    /// An existing folder
    folder: PathBuf,
}

pub(super) fn completions(command: &Completions) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(command.shell, &mut Cli::command(), "xlb", &mut text);
    io::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn manual(command: &Manual) -> anyhow::Result<ExitCode> {
    let folder = &command.folder;
    clap_mangen::generate_to(Cli::command(), folder)
        .with_context(|| format!("could not write manual pages to {}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_knows_every_command() {
        for shell in Shell::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "xlb", &mut text);
            let text = String::from_utf8(text).unwrap();
            for command in Cli::command()
                .get_subcommands()
                .filter(|it| !it.is_hide_set())
            {
                let name = command.get_name();
                assert!(text.contains(name), "{shell}: no {name}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let command = Manual {
            folder: folder.path().to_owned(),
        };
        manual(&command).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let main = page("xlb.1");
        for command in Cli::command()
            .get_subcommands()
            .filter(|it| !it.is_hide_set())
        {
            let name = command.get_name();
            assert!(main.contains(&format!("xlb\\-{name}(1)")), "{main}");
            let page = page(&format!("xlb-{name}.1"));
            assert!(page.contains(".SH SYNOPSIS"), "{page}");
        }
        assert!(page("xlb-run.1").contains("SIGHUP"));
    }
}
