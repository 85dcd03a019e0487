//! Health checks.

use super::*;

const PATH: &str = "path = \"/system/check\"";

pub const CASES: &[Case] = &[
    (PATH, "path = \"system\"", "12:8", "must begin with `/`"),
    (PATH, "path = \"/a b\"", "12:8", "can't have blanks"),
    (PATH, "timeout = \"10s\"", "12:11", "less than `interval`"),
    (PATH, "healthy_threshold = 0", "12:21", "from 1 to 100"),
    (PATH, "success = \"200-600\"", "12:11", "100 to 599"),
    (PATH, "success = \"ok\"", "12:11", "is not a number"),
    (
        PATH,
        "protocol = \"https\"",
        "12:12",
        "HTTPS checks aren't supported",
    ),
    (PATH, "protocol = \"icmp\"", "12:12", "`http` or `tcp`"),
    (
        PATH,
        "protocol = \"tcp\"\npath = \"/\"",
        "13:8",
        "a TCP check has no path",
    ),
    (PATH, "host = \"a b\"", "12:8", "host name or address"),
    (PATH, "port = 0", "12:8", "from 1 to 65535"),
    (PATH, "pathe = \"/\"", "12:1", "did you mean `path`?"),
    (PATH, "path = ", "12:8", "x:12"),
];
