//! The loaded programs on single packets (`BPF_PROG_TEST_RUN`), in tables: what
//! goes in, the verdict, the exact bytes that come out, and the counters that
//! moved. Expected bytes are built with etherparse, which computes every
//! checksum from scratch. They need root.

mod packet {
    mod builder;
    mod lab;

    mod bad_input;
    mod flows;
    mod modes;
    mod not_ours;
    mod ways_out;
}
