//! `make drills`: what administrators practise, from start to end, each in a lab of its own. `cargo test … -- NAME` runs those that match.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use tests::drill::{certificates, control_planes, etcd, power, upgrade};
use tests::lab::Lab;

/// A sentence, the lab's arguments, and what is done in it.
type Drill = (&'static str, &'static [&'static str], fn(&Lab) -> anyhow::Result<()>);

const TWO: &[&str] = &["--nodes", "1"];
const SHARED: &[&str] = &["--control-planes", "3", "--nodes", "1"];

const DRILLS: &[Drill] = &[
    ("etcd is saved and restored by hand", TWO, etcd::by_hand),
    ("etcd is saved and restored by one command", TWO, etcd::by_command),
    ("a cluster is upgraded to the next release", TWO, upgrade::upgrade),
    ("a broken release is rolled back", TWO, upgrade::broken_release),
    ("certificates are renewed under way", TWO, certificates::renewal),
    ("expired certificates are recovered from", TWO, certificates::expired),
    ("any of three control planes may lose its power", SHARED, control_planes::loss),
    ("members come and go", SHARED, control_planes::members),
    ("power cuts at any step", &["--nodes", "1", "--bare"], power::cuts),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Labs share two processors: one at a time.
    arguments.test_threads = Some(1);
    let trials = DRILLS.iter().map(|(name, lab, drill)| {
        Trial::test(*name, move || {
            let run = || {
                let (lab, _) = Lab::up("rk-drill", lab)?;
                drill(&lab)
            };
            run().map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
