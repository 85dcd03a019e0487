//! Interfaces, capacities, times and source ports.

use super::*;

const INTERFACE: &str = "interface = \"eth0\"";

pub const CASES: &[Case] = &[
    (
        INTERFACE,
        "version = 2\ninterface = \"eth0\"",
        "1:11",
        "this xlb reads version 1",
    ),
    (
        INTERFACE,
        "version = \"1\"\ninterface = \"eth0\"",
        "1:11",
        "`version` must be a whole number",
    ),
    (INTERFACE, "", "1:1", "`interface` is missing"),
    (INTERFACE, "interface = []", "1:13", "names none"),
    (
        INTERFACE,
        "interface = 7",
        "1:13",
        "must be a text in quotes, or a list",
    ),
    ("\"eth0\"", "[\"eth0\", \"eth0\"]", "1:22", "named twice"),
    ("\"eth0\"", "\"a-name-of-16-chars\"", "1:13", "at most 15"),
    ("\"eth0\"", "\"eth 0\"", "1:13", "no blank"),
    (
        INTERFACE,
        "interfaces = \"eth0\"",
        "1:1",
        "did you mean `interface`?",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\nxdp_mode = \"fast\"",
        "2:12",
        "`auto`, `native` or `generic`",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\ntc_mode = \"x\"",
        "2:11",
        "`tc_mode` can't be `x`",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\nmanage_address = 1",
        "2:18",
        "`true` or `false`",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\nadmin = \"10.0.0.1:9800\"",
        "2:9",
        "other machines",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\nadmin = 9800",
        "2:9",
        "must be a text",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\nadmin_allow_remotes = true",
        "2:1",
        "did you mean `admin_allow_remote`?",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\nhash_key = \"12\"",
        "2:12",
        "16 hexadecimal digits",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\ncapacity.flows = 4000001",
        "2:18",
        "from 1 to 4000000",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\ncapacity.listeners = 1025",
        "2:22",
        "from 1 to 1024",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\ncapacity.targets = 1",
        "8:1",
        "more than 1 targets in all",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\ncapacity.target = 1",
        "2:10",
        "did you mean `targets`?",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\ntimeouts.udp = \"0s\"",
        "2:16",
        "more than zero",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\ntimeouts.udp = \"1500ms\"",
        "2:16",
        "whole number of seconds",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\ntimeouts.udp = \"soon\"",
        "2:16",
        "is not a time",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\ntimeouts.udp = \"2days\"",
        "2:16",
        "more than a day",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\nsource_nat.ports = \"9-1\"",
        "2:20",
        "ends before it begins",
    ),
    (
        INTERFACE,
        "interface = \"eth0\"\nsource_nat.ports = \"0-9\"",
        "2:20",
        "no port 0",
    ),
];
