//! The namespaces (rig) that the network tests and the demo run in.
