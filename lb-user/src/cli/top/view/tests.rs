use std::{
    collections::BTreeMap,
    time::{Instant, UNIX_EPOCH},
};

use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    api::{FlowsStatus, GroupStatus, InterfaceStatus, Status, TrafficStatus},
    cli::{rates::Sample, top::model::Step},
};

/// After so many seconds of this traffic a second.
fn traffic(seconds: u64, flows: u64, packets: u64) -> TrafficStatus {
    TrafficStatus {
        new_flows: flows * seconds,
        forward_packets: packets * seconds,
        forward_bytes: packets * seconds * 1_024,
        reply_packets: packets * seconds,
        reply_bytes: packets * seconds * 4_096,
    }
}

fn listener(name: &str, traffic: TrafficStatus) -> ListenerStatus {
    ListenerStatus {
        name: name.into(),
        address: "10.0.2.15:80".into(),
        protocol: "tcp".into(),
        target_group: "api".into(),
        traffic,
    }
}

fn target(address: &str, health: &str, traffic: TrafficStatus) -> TargetStatus {
    let description = (health != "healthy").then(|| "the connection was refused".to_owned());
    TargetStatus {
        address: address.into(),
        weight: 1,
        configured_weight: None,
        drained: false,
        share: 0.5,
        health: health.into(),
        reason: description.clone(),
        description,
        since: UNIX_EPOCH,
        remaining: None,
        checks: Default::default(),
        flows: 7,
        traffic,
    }
}

/// Two targets, of which the second has more traffic, and drops.
fn status(seconds: u64) -> Status {
    Status {
        version: "1.2.3".into(),
        started: SystemTime::now() - Duration::from_secs(7_300),
        interfaces: vec![InterfaceStatus {
            name: "eth0".into(),
            xdp: "native".into(),
            tc: "tcx".into(),
        }],
        listeners: vec![
            listener("web", traffic(seconds, 30, 300)),
            listener("admin", traffic(seconds, 0, 0)),
        ],
        target_groups: vec![GroupStatus {
            name: "api".into(),
            forwarding: "nat".into(),
            encapsulation: None,
            fail_open: false,
            targets: vec![
                target("10.0.2.21:8080", "healthy", traffic(seconds, 10, 100)),
                target("10.0.2.22:8080", "unhealthy", traffic(seconds, 20, 200)),
            ],
        }],
        flows: FlowsStatus {
            established: 1_234,
            half_open: 5,
            capacity: 1_000_000,
            ..FlowsStatus::default()
        },
        drops: BTreeMap::from([
            ("not_ours".to_owned(), 1_000_000),
            ("no_target".to_owned(), 4 * seconds),
            ("denied".to_owned(), 0),
        ]),
        passed: vec!["not_ours".to_owned()],
        problems: Vec::new(),
    }
}

/// After the statuses of these seconds.
fn model(seconds: &[u64]) -> Model {
    let start = Instant::now();
    let mut model = Model::new(false);
    for &second in seconds {
        model.update(Sample {
            status: status(second),
            at: start + Duration::from_secs(second),
        });
    }
    model
}

fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    (0..height)
        .map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect())
        .collect()
}

/// The line with this.
#[track_caller]
fn line<'a>(screen: &'a [String], with: &str) -> &'a str {
    let line = screen.iter().find(|line| line.contains(with));
    line.unwrap_or_else(|| panic!("no {with:?} in\n{}", screen.join("\n")))
}

#[track_caller]
fn says(screen: &[String], with: &str, words: &[&str]) {
    let line = line(screen, with);
    for word in words {
        assert!(line.contains(word), "no {word:?} in {line:?}");
    }
}

#[test]
fn all_that_matters_is_on_an_ordinary_terminal() {
    let screen = screen(&model(&[1, 2, 4]), 80, 24);
    says(
        &screen,
        "xlb 1.2.3",
        &[
            "up 2h 1m  ",
            "eth0 native",
            "1234 of 1000000",
            "5 half-open",
        ],
    );
    let total = [
        "new flows 30/s",
        "in 300.0 KiB/s (300 packets)",
        "out 1.2 MiB/s",
    ];
    says(&screen, "new flows 30/s", &total);
    let listener = ["10.0.2.15:80", "tcp", "30", "300.0 KiB", "1.2 MiB", "██"];
    says(&screen, "web", &listener);
    says(
        &screen,
        "10.0.2.21:8080  ",
        &["api", "healthy", "7", "10", "100.0 KiB"],
    );
    says(
        &screen,
        "10.0.2.22:8080  ",
        &["unhealthy", "20", "800.0 KiB"],
    );
    says(&screen, "targets,", &["1 of 2 healthy", "as configured"]);
    says(&screen, "no_target", &["4"]);
    says(&screen, "q quit", &["tab", "sort"]);
    assert!(!screen.join("").contains("denied"), "none was denied");
    // The first target is looked at.
    says(&screen, "target 10.0.2.21:8080 of api", &[]);
    says(&screen, "weight 1, share 50.0%", &[]);
    says(&screen, "at most 10/s", &["new flows 10/s"]);
    // What happens at present comes first.
    let place = |reason| screen.iter().position(|line| line.contains(reason));
    assert!(place("no_target") < place("not_ours"));
}

#[test]
fn the_first_status_has_no_rates_yet() {
    let screen = screen(&model(&[5]), 80, 24);
    says(&screen, "new flows 0/s", &["in 0 B/s"]);
    says(&screen, "10.0.2.21:8080  ", &["healthy", "7"]);
    assert!(!screen.join("").contains('█'), "there is no course yet");
}

#[test]
fn a_counter_that_began_anew_is_no_negative_rate() {
    let screen = screen(&model(&[100, 101, 3]), 80, 24);
    says(&screen, "new flows 0/s", &[]);
}

/// What has gone and come back up in the last rows.
#[test]
fn a_course_is_drawn_by_its_highest_value() {
    let mut model = Model::new(false);
    let start = Instant::now();
    let mut counted = 0;
    for (second, packets) in (0..).zip([0, 800, 400, 0, 200]) {
        counted += packets;
        let mut status = status(0);
        status.listeners[0].traffic.forward_packets = counted;
        let at = start + Duration::from_secs(second);
        model.update(Sample { status, at });
    }
    says(&screen(&model, 80, 24), "web", &["█▅▁▃"]);
}

#[test]
fn keys_move_between_rows_and_panes_and_sort() {
    let mut model = model(&[1, 2]);
    model.step(Step::By(1));
    let shown = screen(&model, 80, 24);
    says(&shown, "target 10.0.2.22:8080 of api", &[]);
    says(&shown, "unhealthy: the connection was refused", &[]);
    model.step(Step::By(10));
    assert_eq!(model.place(Pane::Targets), Some(1), "there are two");

    // The row moves, and the reader with it.
    model.sort_otherwise();
    let shown = screen(&model, 80, 24);
    says(&shown, "targets,", &["by new flows"]);
    let place = |screen: &[String], of: &str| screen.iter().position(|it| it.contains(of));
    assert!(place(&shown, "10.0.2.22:8080  ") < place(&shown, "10.0.2.21:8080  "));
    assert_eq!(model.place(Pane::Targets), Some(0));
    model.step(Step::Last);
    says(&screen(&model, 80, 24), "target 10.0.2.21:8080 of api", &[]);
    model.sort_otherwise();
    model.sort_otherwise();
    says(&screen(&model, 80, 24), "targets,", &["by health"]);
    assert_eq!(model.place(Pane::Targets), Some(1));

    model.next_pane();
    model.step(Step::First);
    let shown = screen(&model, 80, 24);
    says(&shown, "drop reason no_target", &[]);
    says(&shown, "packets 4/s", &[]);
    model.next_pane();
    says(&screen(&model, 80, 24), "listener web", &[]);
    model.previous_pane();
    model.previous_pane();
    assert_eq!(model.pane, Pane::Targets);
}

#[test]
fn an_agent_that_does_not_answer_is_said_and_the_last_figures_stay() {
    let mut model = model(&[1, 2]);
    model.fail("no xlb is running here".into());
    let shown = screen(&model, 80, 24);
    says(&shown, "no new figures: no xlb is running here", &[]);
    says(&shown, "10.0.2.21:8080  ", &["healthy"]);
    model.update(Sample {
        status: status(3),
        at: Instant::now() + Duration::from_secs(3),
    });
    assert!(!screen(&model, 80, 24).join("").contains("no new figures"));
}

/// The reader's row is in sight, however many there are.
#[test]
fn long_lists_scroll() {
    let mut model = Model::new(false);
    let mut status = status(1);
    status.target_groups[0].targets = (0..500)
        .map(|n| target(&format!(":{}", 20_000 + n), "healthy", traffic(1, 1, 1)))
        .collect();
    model.update(Sample {
        status,
        at: Instant::now(),
    });
    assert!(screen(&model, 80, 24).join("").contains(":20000 "));
    model.step(Step::Last);
    says(&screen(&model, 80, 24), ":20499 ", &["healthy"]);
    model.step(Step::By(-3));
    says(&screen(&model, 80, 24), ":20496 ", &["healthy"]);
}

#[test]
fn every_size_of_terminal_is_drawn() {
    let model = model(&[1, 2, 3]);
    for (width, height) in [(1, 1), (39, 30), (40, 10), (60, 15), (80, 24), (250, 80)] {
        let screen = screen(&model, width, height);
        let is_small = width < 40 || height < 10;
        assert_eq!(screen.join("").contains("targets, 1 of 2"), !is_small);
    }
    says(&screen(&model, 200, 50), "10.0.2.22:8080  ", &["unhealthy"]);
    assert!(
        screen(&Model::new(false), 80, 24)
            .join("")
            .contains("q quit"),
        "nothing yet"
    );
}

#[test]
fn colours_only_where_they_are_wanted() {
    let styles = |colours: bool| {
        let mut model = model(&[1, 2]);
        model.colours = colours;
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, &model)).unwrap();
        let cells = terminal.backend().buffer().content().to_vec();
        cells.iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    assert_eq!(styles(false), 0);
    assert!(styles(true) > 10);
}
