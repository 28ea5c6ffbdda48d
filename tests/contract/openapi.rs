//! The API's description: what programs are written against. A change shows in
//! the difference to the snapshot, which `FLOTILLA_BLESS=1` writes.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("contract/openapi.json")
}

fn document() -> Value {
    serde_json::from_str(controller::api::rest::document()).unwrap()
}

#[test]
fn the_api_is_as_it_was_described() {
    let document = document();
    let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
    if std::env::var_os("FLOTILLA_BLESS").is_some() {
        fs::write(file(), &text).unwrap();
    }
    let snapshot: Value = serde_json::from_str(&fs::read_to_string(file()).unwrap()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        assert_eq!(
            &snapshot["paths"][path], item,
            "{path} changed: look at the difference, then FLOTILLA_BLESS=1"
        );
    }
    assert!(document == snapshot, "the API's description changed");
}

#[test]
fn it_is_openapi_3_1_and_every_operation_has_an_id_and_an_answer() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if !operation.is_object() {
                continue;
            }
            assert!(
                operation["operationId"].is_string(),
                "{method} {path} has no id"
            );
            assert!(
                operation["responses"]
                    .as_object()
                    .is_some_and(|r| !r.is_empty()),
                "{method} {path} has no answer"
            );
        }
    }
}
