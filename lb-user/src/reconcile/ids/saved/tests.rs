use std::net::{IpAddr, Ipv4Addr};

use lb_common::{Be16, listener::ListenerEntry};

use super::*;
use crate::config;

const TEXT: &str = r#"
interface = "eth0"
[[listener]]
name = "web"
address = "10.0.0.1:80"
target_group = "web"
[[listener]]
name = "admin"
address = ":8000-8015"
target_group = "admin"
[[target_group]]
name = "web"
targets = ["10.0.0.21:8080", "10.0.0.22:8080"]
[[target_group]]
name = "admin"
targets = ["10.0.0.21:8080", "10.0.0.23:9000"]
"#;

fn config(text: &str) -> Config {
    config::parse(text, "x").unwrap().config
}

fn key(group: &str, last: u8) -> TargetKey {
    TargetKey {
        group: group.to_owned(),
        address: Some(Ipv4Addr::new(10, 0, 0, last).into()),
        port: 8080,
    }
}

fn ids(config: &Config) -> Ids {
    let mut ids = Ids::new(config.capacity);
    ids.assign(config, &BTreeSet::new());
    ids
}

/// The targets' entries as the maps have them.
fn maps(ids: &Ids, config: &Config) -> MapState {
    let mut maps = MapState::default();
    for key in TargetKey::all(config) {
        let id = ids.target(&key).unwrap();
        let entry = TargetEntry {
            address: key.address.map_or([0; 4], wide),
            port: Be16::new(key.port),
            generation: ids.generation(id),
            ..TargetEntry::default()
        };
        maps.targets.insert(id, entry);
    }
    maps
}

fn restored(capacity: Capacity, saved: &Ids, maps: &MapState) -> Ids {
    let text = serde_json::to_string(&saved.save()).unwrap();
    Ids::restore(capacity, serde_json::from_str(&text).unwrap(), maps)
}

#[test]
fn all_is_as_it_was() {
    let config = config(TEXT);
    let before = ids(&config);
    let maps = maps(&before, &config);
    let mut after = restored(config.capacity, &before, &maps);
    after.assign(&config, &BTreeSet::new());
    for key in TargetKey::all(&config) {
        let id = after.target(&key).unwrap();
        assert_eq!(before.target(&key), Some(id));
        assert_eq!(before.generation(id), after.generation(id));
    }
    for name in ["web", "admin"] {
        assert_eq!(before.listener(name), after.listener(name));
        assert_eq!(before.group(name), after.group(name));
    }
}

#[test]
fn an_id_that_was_given_back_still_comes_last_and_with_a_new_generation() {
    let mut config = config(TEXT);
    config.capacity.targets = 6;
    let mut before = ids(&config);
    let gone = before.target(&key("web", 22)).unwrap();
    config.target_groups[0].targets.pop();
    before.assign(&config, &BTreeSet::new());
    let maps = maps(&before, &config);
    let mut after = restored(config.capacity, &before, &maps);

    let more: Vec<String> = (31..34).map(|n| format!("\"10.0.0.{n}:8080\"")).collect();
    let text = TEXT.replace("\"10.0.0.22:8080\"", &more.join(", "));
    after.assign(&self::config(&text), &BTreeSet::new());
    assert_eq!(after.target(&key("web", 33)), Some(gone));
    assert_eq!(after.generation(gone), 2);
}

/// The file is of a moment before other targets came.
#[test]
fn an_id_that_is_anothers_by_now_stays_the_others() {
    let config = config(TEXT);
    let before = ids(&config);
    let id = before.target(&key("web", 22)).unwrap();
    let mut maps = maps(&before, &config);
    let other = maps.targets.get_mut(&id).unwrap();
    other.address = wide(IpAddr::from([10, 0, 0, 99]));
    other.generation = 5;
    let mut after = restored(config.capacity, &before, &maps);
    assert_eq!(after.target(&key("web", 22)), None);
    after.recognise(&config, &maps);
    after.assign(&config, &BTreeSet::new());
    let now = after.target(&key("web", 22)).unwrap();
    assert_ne!(now, id, "flows of the other would come to it");
    assert_eq!(after.generation(id), 5);
}

/// Without the file: targets by their entries, all else by the listeners'.
#[test]
fn what_isnt_written_down_is_told_from_the_maps() {
    let config = config(TEXT);
    let mut maps = maps(&ids(&config), &config);
    let web = Place::port(Ipv4Addr::new(10, 0, 0, 1), 80, flow::TCP);
    let block = crate::reconcile::Block {
        first: 8000,
        open_bits: 4,
    };
    let admin = Place {
        address: Ipv4Addr::new(10, 0, 0, 7).into(),
        protocol: flow::TCP,
        ports: PlacePorts::Block(block),
    };
    for (place, id, group) in [(web, 7, 5), (admin, 3, 0)] {
        let entry = ListenerEntry {
            id,
            group,
            ..ListenerEntry::default()
        };
        maps.listeners.insert(place, entry);
    }
    let mut after = Ids::restore(config.capacity, SavedIds::default(), &maps);
    after.recognise(&config, &maps);
    after.assign(&config, &BTreeSet::new());
    let of = |name| (after.listener(name), after.group(name));
    assert_eq!(of("web"), (Some(7), Some(5)));
    assert_eq!(of("admin"), (Some(3), Some(0)));
    // Two groups have the same target: each gets one of its ids.
    let keys = TargetKey::all(&config);
    let found: BTreeSet<u32> = keys.map(|key| after.target(&key).unwrap()).collect();
    assert_eq!(found, maps.targets.keys().copied().collect());
}
