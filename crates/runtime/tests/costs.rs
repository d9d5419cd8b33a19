//! Prints what a pod start costs beside the OCI runtime's own. Figures, no judgement: machines differ.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "measures, and starts the OCI runtime by hand"
)]

mod world;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use world::*;

const ROUNDS: usize = 15;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_start_and_its_parts() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    let (mut run, mut made, mut started, mut all, mut bare) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let pod = sandbox_config(&world, &format!("pod{round}"));
        let t0 = Instant::now();
        let sandbox = sandbox(&client, &pod).await;
        let t1 = Instant::now();
        let id = create(&client, &sandbox, &pod, container_config(&image, "main", &["sleep", "1000"])).await;
        let t2 = Instant::now();
        start(&client, &id).await;
        let t3 = Instant::now();
        run.push(t1 - t0);
        made.push(t2 - t1);
        started.push(t3 - t2);
        all.push(t3 - t0);
        bare.push(by_hand(&world, &id, round));
    }
    println!(
        "RunPodSandbox {:?}, CreateContainer {:?}, StartContainer {:?}, all {:?}; bare runc create + start {:?}",
        median(run),
        median(made),
        median(started),
        median(all),
        median(bare)
    );
    runtime.tear_down().await.unwrap();
}

/// The same bundle without us: create and start.
fn by_hand(world: &World, id: &str, round: usize) -> Duration {
    let bundle = world.run().join("containers").join(id);
    let root = world.root.path().join("bare");
    let name = format!("{}-bare{round}", world.tag);
    let runc = |arguments: &[&str]| {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&root).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        assert!(command.stderr(Stdio::null()).status().expect("run runc").success(), "runc {arguments:?}");
    };
    let scratch = world.root.path().join("bundle");
    std::fs::create_dir_all(&scratch).unwrap();
    let text = std::fs::read_to_string(bundle.join("config.json")).unwrap();
    std::fs::write(
        scratch.join("config.json"),
        text.replace(id, &name).replace(&format!("{name}/rootfs"), &format!("{id}/rootfs")),
    )
    .unwrap();
    let began = Instant::now();
    runc(&["create", "--bundle", &scratch.to_string_lossy(), &name]);
    runc(&["start", &name]);
    let took = began.elapsed();
    runc(&["delete", "--force", &name]);
    took
}
