//! The schema that editors complete policies with is the document types', and every policy fits it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

fn policies() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies"))
}

fn schema() -> Value {
    op25b::document::schema().to_value()
}

/// `OP25B_WRITE_SCHEMA=1` writes it anew.
#[test]
fn the_schema_is_that_of_the_types() {
    let path = policies().join("policy.schema.json");
    let generated = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("OP25B_WRITE_SCHEMA").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|committed| committed == generated),
        "policies/policy.schema.json is not what the document types say; \
         `OP25B_WRITE_SCHEMA=1 cargo test -p op25b-user --test schema` writes it anew"
    );
}

#[test]
fn every_policy_names_the_schema_and_fits_it() {
    let mut seen = 0;
    for entry in fs::read_dir(policies()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# yaml-language-server: $schema=policy.schema.json\n"),
            "{} does not name the schema in its first line",
            path.display()
        );
        let policy: Value = serde_yaml::from_str(&text).unwrap();
        fits(&schema(), &policy, "policy").unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        seen += 1;
    }
    assert!(seen >= 3, "{seen} policies");
}

#[test]
fn what_the_reader_refuses_by_its_shape_does_not_fit() {
    let group = json!({ "name": "a", "prefixes": ["203.0.113.0/24"], "mode": "enforce" });
    let valid = json!({ "version": 1, "customers": [group], "unknown_sources": "pass" });
    fits(&schema(), &valid, "policy").unwrap();
    for (pointer, key, value) in [
        ("", "version", json!(2)),
        ("", "unknown_source", json!("pass")),
        ("", "unknown_sources", json!("drop")),
        ("", "metrics", json!({})),
        ("", "history", json!({ "path": "/h.db", "keep_destinations": 7 })),
        ("", "interfaces", json!({ "customer": [{ "name": "eth1", "atach": "generic" }] })),
        ("", "exemptions", json!([{ "reason": "no prefixes" }])),
        ("/customers/0", "mode", json!("block")),
        ("/customers/0", "prefixs", json!([])),
        ("/customers/0", "ipv6_source_length", json!(65)),
        ("/customers/0", "enforce_from", json!(null)),
    ] {
        let mut wrong = valid.clone();
        wrong.pointer_mut(pointer).unwrap()[key] = value;
        assert!(fits(&schema(), &wrong, "policy").is_err(), "{wrong}");
    }
    for (pointer, key) in
        [("", "version"), ("", "customers"), ("", "unknown_sources"), ("/customers/0", "mode")]
    {
        let mut wrong = valid.clone();
        wrong.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key);
        assert!(fits(&schema(), &wrong, "policy").is_err(), "{wrong}");
    }
}

/// JSON Schema as far as our schema goes; a keyword beyond that fails. A whole implementation would be fifty crates.
fn fits(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    check(schema, schema, value, at)
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let wrong = |what: String| Err(format!("{at}: {what}"));
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "format" => {}
            "$ref" => {
                let target = rule.as_str().unwrap().trim_start_matches('#');
                check(root, root.pointer(target).expect("a reference leads somewhere"), value, at)?;
            }
            "type" => {
                let types = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                if !types.iter().any(|name| is(value, name.as_str().unwrap())) {
                    return wrong(format!("{value} is no {rule}"));
                }
            }
            "minimum" if value.as_f64() < rule.as_f64() => {
                return wrong(format!("{value} is less than {rule}"));
            }
            "maximum" if value.as_f64() > rule.as_f64() => {
                return wrong(format!("{value} is more than {rule}"));
            }
            "minimum" | "maximum" => {}
            "const" if value != rule => return wrong(format!("{value} is not {rule}")),
            "enum" if !rule.as_array().unwrap().contains(value) => {
                return wrong(format!("{value} is none of {rule}"));
            }
            "const" | "enum" => {}
            "anyOf" | "oneOf" => {
                if rule.as_array().unwrap().iter().all(|rule| check(root, rule, value, at).is_err()) {
                    return wrong(format!("{value} fits none of {rule}"));
                }
            }
            "required" => {
                for key in rule.as_array().unwrap() {
                    if value.get(key.as_str().unwrap()).is_none() {
                        return wrong(format!("{key} is missing"));
                    }
                }
            }
            "properties" => {
                for (key, rule) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        check(root, rule, value, &format!("{at}.{key}"))?;
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(rule, &json!(false));
                for key in value.as_object().into_iter().flat_map(|object| object.keys()) {
                    if schema["properties"].get(key).is_none() {
                        return wrong(format!("no key is called {key}"));
                    }
                }
            }
            "items" => {
                for (item, number) in value.as_array().into_iter().flatten().zip(0..) {
                    check(root, rule, item, &format!("{at}[{number}]"))?;
                }
            }
            other => panic!("the schema uses {other}, which this test does not know"),
        }
    }
    Ok(())
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    }
}
