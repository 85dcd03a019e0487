//! The agent and the kernel programs at work, with real servers and clients,
//! in network namespaces. They need root, and the release build of `xlb`.

mod network {
    mod bystanders;
    mod changes;
    mod clean;
    mod download;
    mod errors;
    mod health;
    mod host_changes;
    mod load;
    mod scenario;
    mod spread;
    mod udp;
}
