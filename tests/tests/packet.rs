//! The loaded programs on single packets (`BPF_PROG_TEST_RUN`), in tables: what
//! goes in, the verdict, the exact bytes that come out, and the counters that
//! moved. Expected bytes are built with etherparse, which computes every
//! checksum from scratch. What a test run can't show, `wire` sends over devices.
//! They need root.

mod packet {
    mod builder;
    mod ends;
    mod lab;
    mod net;
    mod step;
    mod tunnel;

    mod adopt;
    mod bad_input;
    mod capture;
    mod devices;
    mod dsr;
    mod explain;
    mod extensions;
    mod flows;
    mod fragments;
    mod generation;
    mod icmp_echo;
    mod icmp_errors;
    mod idle;
    mod interfaces;
    mod jumbo;
    mod kernel;
    mod limits;
    mod listeners;
    mod max_segment;
    mod modes;
    mod not_ours;
    mod reset;
    mod routes;
    mod security;
    mod selection;
    mod start;
    mod tables;
    mod too_big;
    mod tunnel_errors;
    mod two_cpus;
    mod ways_out;
    mod wire;
}
