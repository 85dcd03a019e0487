//! The agent and the kernel programs at work, with real servers and clients,
//! in network namespaces. They need root, and the release build of `xlb`.

mod network {
    mod admin;
    mod bystanders;
    mod capabilities;
    mod capacity;
    mod capture;
    mod captured;
    mod changes;
    mod clean;
    mod doctor;
    mod download;
    mod dsr;
    mod errors;
    mod explain;
    mod fail_open;
    mod faults;
    mod flows;
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
    mod nothing_lost;
    mod operator;
    mod other_maps;
    mod path_mtu;
    mod places;
    mod protections;
    mod random_changes;
    mod reload;
    mod restart;
    mod restarted;
    mod scenario;
    mod slow_start;
    mod spread;
    mod syn_flood;
    mod top;
    mod udp;
}
