//! Node-local mode in a network namespace of its own.

use rk_dns::local::Local;

fn ip(arguments: &str) -> String {
    let output = std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_device_and_the_rules_come_and_go() {
    // This thread's own namespace: it ends with the test, and programs that it starts are in it.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let local = Local {
        addresses: vec!["169.254.20.10".parse().unwrap(), "10.96.0.10".parse().unwrap()],
        interface: "nodelocaldns".into(),
        keep: false,
    };
    let rules = || {
        let output = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Twice: a restart finds what it left.
    for _ in 0..2 {
        local.up().unwrap();
        let shown = ip("-4 addr show nodelocaldns");
        assert!(shown.contains("169.254.20.10/32") && shown.contains("10.96.0.10/32"), "{shown}");
        assert_eq!(rules().matches("notrack").count(), 6);
    }
    local.down();
    local.down();
    assert!(!ip("link").contains("nodelocaldns"));
    assert!(!rules().contains("rk-node-dns"));
}
