//! Listeners: their addresses, and the groups that they name.

use super::*;

const ADDRESS: &str = "address = \":80\"";
const LISTENER: &str = "[[listener]]";

pub const CASES: &[Case] = &[
    (ADDRESS, "", "3:1", "`address` is missing"),
    (ADDRESS, "address = \"80\"", "4:11", "has no port"),
    (ADDRESS, "address = \":0\"", "4:11", "no port 0"),
    (ADDRESS, "address = \":65536\"", "4:11", "is not a port"),
    (
        ADDRESS,
        "address = \"1.2.3:80\"",
        "4:11",
        "is not an IPv4 address",
    ),
    (
        ADDRESS,
        "address = \"host:80\"",
        "4:11",
        "names aren't resolved",
    ),
    (
        ADDRESS,
        "address = \"127.0.0.1:80\"",
        "4:11",
        "write `:PORT` for a port of this host",
    ),
    (
        ADDRESS,
        "address = \"0.0.0.0:80\"",
        "4:11",
        "names no address",
    ),
    (ADDRESS, "address = \"224.0.0.1:80\"", "4:11", "multicast"),
    (
        ADDRESS,
        "address = \"255.255.255.255:80\"",
        "4:11",
        "broadcast",
    ),
    (
        ADDRESS,
        "adress = \":80\"\naddress = \":80\"",
        "4:1",
        "did you mean `address`?",
    ),
    (
        ADDRESS,
        "protocol = \"sctp\"\naddress = \":80\"",
        "4:12",
        "`tcp` or `udp`",
    ),
    (
        "target_group = \"api\"",
        "target_group = \"apu\"",
        "5:16",
        "did you mean `api`?",
    ),
    (
        "target_group = \"api\"",
        "",
        "3:1",
        "`target_group` is missing",
    ),
    (
        LISTENER,
        "[[listener]]\naddress = \":80\"\ntarget_group = \"api\"\n[[listener]]",
        "7:11",
        "has this address, port and protocol already",
    ),
    (
        LISTENER,
        "[[listener]]\nname = \"a\"\naddress = \":81\"\ntarget_group = \"api\"\n[[listener]]\nname = \"a\"",
        "8:8",
        "another listener `a`",
    ),
    (ADDRESS, "address = \":8081\"", "3:1", "go round in circles"),
];
