use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;

fn device() -> Value {
    let map =
        |entries: Vec<(&str, Value)>| entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>();
    let quantity = |text: &str| Value::Quantity(Arc::new(api::quantity::Quantity::parse(text).unwrap()));
    let attributes = map(vec![
        ("model", "a100".into()),
        ("index", Value::Int(3)),
        ("ecc", Value::Bool(true)),
        ("driverVersion", Value::Semver(Arc::new(Semver::parse("1.10.0", false).unwrap()))),
    ]);
    Value::Map(Arc::new(map(vec![
        ("driver", "gpu.example.com".into()),
        ("attributes", Value::Domains(Arc::new(map(vec![("gpu.example.com", Value::Map(Arc::new(attributes)))])))),
        (
            "capacity",
            Value::Domains(Arc::new(map(vec![(
                "gpu.example.com",
                Value::Map(Arc::new(map(vec![("memory", quantity("40Gi"))]))),
            )]))),
        ),
    ])))
}

fn eval(text: &str) -> Result<Value, String> {
    compile(text)?.evaluate(&[("device", device())])
}

#[test]
fn selectors_say_yes_and_no() {
    let gpu = r#"device.attributes["gpu.example.com"]"#;
    for (text, want) in [
        ("device.driver == 'gpu.example.com'".to_owned(), true),
        (format!("{gpu}.model == 'a100' && {gpu}.index < 4"), true),
        (format!("{gpu}.model in ['h100', \"b200\"] || {gpu}.ecc"), true),
        (format!("!{gpu}.ecc"), false),
        (format!("{gpu}.model.matches('^a[0-9]+$') && {gpu}.model.startsWith('a1')"), true),
        (format!("{gpu}.driverVersion.isGreaterThan(semver('1.9.0'))"), true),
        (format!("{gpu}.driverVersion.compareTo(semver('1.10.0')) == 0 && {gpu}.driverVersion.minor() == 10"), true),
        ("device.capacity['gpu.example.com'].memory.compareTo(quantity('40Gi')) >= 0".to_owned(), true),
        ("device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('41Gi'))".to_owned(), false),
        ("device.capacity['gpu.example.com'].memory >= quantity('1Gi')".to_owned(), true),
        ("'gpu.example.com' in device.attributes && !('other' in device.attributes)".to_owned(), true),
        (format!("has({gpu}.model) && !has({gpu}.absent)"), true),
        ("has(device.attributes['other'].x) ? false : true".to_owned(), true),
        (format!("cel.bind(a, {gpu}, a.model == 'a100' && a.index == 3)"), true),
        (
            format!(
                "['a', 'b'].exists(x, {gpu}.model.startsWith(x)) && [1, 2].all(n, n > 0) && [1, 2, 3].filter(n, n > 1).size() == 2"
            ),
            true,
        ),
        ("[1, 2].map(n, n * 2) == [2, 4] && [1].exists_one(n, n == 1)".to_owned(), true),
        (format!("{gpu}.?absent.orValue('x') == 'x' && {gpu}[?'model'].hasValue()"), true),
        ("1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && -3 / 2 == -1 && 7 % 4 == 3 && 1 < 1.5 && 2u == 2".to_owned(), true),
        ("'a\\n\\u0041' == \"a\\nA\" && r'\\d' == '\\\\d' && '''x'y''' == \"x'y\" // why not".to_owned(), true),
        ("{'a': 1}['a'] == 1 && size('äb') == 2 && 0x10 == 16 && 1e3 == 1000.0".to_owned(), true),
    ] {
        assert_eq!(eval(&text), Ok(Value::Bool(want)), "{text}");
    }
}

#[test]
fn errors_are_errors_unless_the_other_side_decides() {
    for (text, want) in [
        ("device.attributes['gpu.example.com'].absent == 'x'", "no such key: absent"),
        ("device.attributes['other'].absent", "no such key: absent"),
        ("1 / 0 == 1", "division by zero"),
        ("9223372036854775807 + 1 > 0", "integer overflow"),
        ("'a' < 1", "no such overload"),
        ("nobody == 1", "undeclared reference to 'nobody'"),
        ("quantity('x').sign() == 0", "quantit"),
    ] {
        let error = eval(text).unwrap_err();
        assert!(error.contains(want), "{text}: {error}");
    }
    assert_eq!(eval("device.attributes['other'].absent == 'x' || true"), Ok(Value::Bool(true)));
    assert_eq!(eval("device.attributes['other'].absent == 'x' && false"), Ok(Value::Bool(false)));
    assert!(eval("device.attributes['other'].absent == 'x' && true").is_err());
}

#[test]
fn what_is_no_expression_is_refused_and_work_is_bounded() {
    for text in
        ["", "1 +", "a b", "'open", "(1", "[1, 2", "a..b", "#", "1 ? 2", "'\\q'", "99999999999999999999", "{1: 2", "a = b"]
    {
        assert!(compile(text).is_err(), "{text}");
    }
    for deep in [
        format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000)),
        "!".repeat(5_000) + "true",
        "a".to_owned() + &".b".repeat(4_000),
        "1".to_owned() + &"+1".repeat(4_000),
    ] {
        assert!(compile(&deep).is_err());
    }
    let list = format!("[{}]", vec!["1"; 60].join(","));
    let much = format!("{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, a + b + c + d == 4))))");
    assert!(eval(&much).unwrap_err().contains("cost limit"));
}

#[test]
fn versions_are_ordered_as_the_standard_says() {
    let order = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0", "1.2.0", "1.10.0"];
    let parsed: Vec<_> = order.iter().map(|text| Semver::parse(text, false).unwrap()).collect();
    assert!(parsed.windows(2).all(|pair| pair[0] < pair[1]));
    for bad in ["1.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.x"] {
        assert!(Semver::parse(bad, false).is_none(), "{bad}");
    }
    assert_eq!(Semver::parse("v1.2", true), Semver::parse("1.2.0+build", false));
}
