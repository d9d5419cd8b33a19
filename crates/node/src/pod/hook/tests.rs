//! Ports and the length of messages.

use super::*;
use serde_json::json;

#[test]
fn hook_19_a_port_is_a_number_or_one_of_the_containers_own() {
    let container: Container =
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
    let of = |value| port(&container, &serde_json::from_value(value).unwrap());
    assert_eq!(of(json!(80)), Ok(80));
    assert_eq!(of(json!("web")), Ok(8080));
    assert_eq!(of(json!("8081")), Ok(8081));
    assert_eq!(of(json!(65536)), Err("invalid port number: 65536".into()));
    assert_eq!(of(json!("www")), Err("strconv.Atoi: parsing \"www\": invalid syntax".into()));
}

#[test]
fn a_message_is_cut_at_a_kibibyte_and_between_characters() {
    assert_eq!(clip("ü".repeat(1000)), "ü".repeat(512));
    assert_eq!(clip(format!("a{}", "ü".repeat(1000))).len(), 1023);
}
