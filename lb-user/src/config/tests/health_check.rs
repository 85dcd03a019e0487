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
        "protocol = \"icmp\"",
        "12:12",
        "`http`, `https` or `tcp`",
    ),
    (PATH, "verify = false", "12:10", "of HTTPS checks only"),
    (
        PATH,
        "protocol = \"tcp\"\nserver_name = \"a\"",
        "13:15",
        "of HTTPS checks only",
    ),
    (
        PATH,
        "protocol = \"https\"\nserver_name = \"a:443\"",
        "13:15",
        "`server_name` is no name or address",
    ),
    (
        PATH,
        "protocol = \"https\"\nhost = \"a..b\"",
        "13:8",
        "`host` is no name or address",
    ),
    (
        PATH,
        "protocol = \"https\"\nhost = \"a b\"",
        "13:8",
        "host name or address",
    ),
    (
        PATH,
        "protocol = \"https\"\nca_file = \"none.pem\"",
        "13:11",
        "none.pem: could not be read",
    ),
    (
        PATH,
        "protocol = \"https\"\nca_file = \"/dev/zero\"",
        "13:11",
        "too large for certificates",
    ),
    (
        PATH,
        "protocol = \"https\"\nca_file = \"/dev/null\"",
        "13:11",
        "has no certificate in PEM",
    ),
    (
        PATH,
        "protocol = \"https\"\nverify = false\nca_file = \"x.pem\"",
        "14:11",
        "no use with `verify = false`",
    ),
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
