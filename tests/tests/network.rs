//! The agent and the kernel programs at work, with real servers and clients,
//! in network namespaces. They need root, and the release build of `xlb`.

mod network {
    mod admin;
    mod bystanders;
    mod capacity;
    mod changes;
    mod clean;
    mod download;
    mod dsr;
    mod errors;
    mod fail_open;
    mod health;
    mod host_changes;
    mod icmp;
    mod interfaces;
    mod jumbo;
    mod life_cycle;
    mod load;
    mod logs;
    mod max_segment;
    mod metrics;
    mod path_mtu;
    mod protections;
    mod reload;
    mod scenario;
    mod slow_start;
    mod spread;
    mod syn_flood;
    mod udp;
}
