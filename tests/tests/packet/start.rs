//! The agent itself on this kernel: that it starts, and what it says it lacks.
//! `cargo xtask test --kernels` runs this on each; on the running kernel every
//! network test starts an agent.

use std::fs;

use xlb_tests::{
    directory::Directory,
    netns::{Namespace, Series},
    xlb::Xlb,
};

/// What a kernel older than each of these (major, minor) goes without.
const LACKS: [((u32, u32), &str); 2] = [
    ((6, 6), "has no TCX"),
    ((6, 3), "doesn't tell what drivers can do with XDP"),
];

fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.trim().to_owned()
}

fn version(release: &str) -> (u32, u32) {
    let numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut numbers = numbers.map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn the_agent_says_in_one_sentence_what_this_kernel_lacks() {
    let namespace = Namespace::create(Series::new(), "start").unwrap();
    for words in [
        "link add eth0 type veth peer name peer0",
        "addr add 10.0.0.1/24 dev eth0",
        "link set eth0 up",
        "link set peer0 up",
    ] {
        namespace.ip(words).unwrap();
    }
    let directory = Directory::create().unwrap();
    let flags = "--interface eth0 --listen :80 --target :8081";
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let xlb = Xlb::run(&namespace, &flags, directory.path()).unwrap();
    let log = xlb.log();
    xlb.stop().unwrap();

    let release = release();
    let name = format!("Linux {release} ");
    let said: Vec<&str> = log.lines().filter(|line| line.contains(&name)).collect();
    let lacks = LACKS.map(|(since, what)| (version(&release) < since, what));
    let any = lacks.iter().any(|(lacks, _)| *lacks);
    assert_eq!(said.len(), usize::from(any), "of {release} in:\n{log}");
    for (lacks, what) in lacks {
        let says = said.iter().any(|line| line.contains(what));
        assert_eq!(says, lacks, "“{what}” of {release} in:\n{log}");
    }
}
