//! What a container may and may not: limits, identities, namespaces, mounts, as the kernel shows them.

mod world;

use cri::Client;
use cri::v1::*;
use world::*;

fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

async fn run(client: &Client, sandbox: &str, pod: &PodSandboxConfig, config: ContainerConfig) -> String {
    let id = create(client, sandbox, pod, config).await;
    start(client, &id).await;
    id
}

/// Output of a shell line in a container.
async fn says(client: &Client, id: &str, line: &str) -> String {
    let done = exec(client, id, &["sh", "-c", line]).await;
    String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_their_breach_is_named() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "limits");
    let sandbox = sandbox(&client, &pod).await;

    let greedy = "x=$(yes | head -c 300000000); echo $x";
    let mut config = container_config(&image, "greedy", &["sh", "-c", greedy]);
    config.linux.as_mut().unwrap().resources.as_mut().unwrap().memory_limit_in_bytes = 32 << 20;
    let id = run(&client, &sandbox, &pod, config).await;
    let end = ended(&client, &id).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (137, "OOMKilled"));

    let id = run(&client, &sandbox, &pod, container_config(&image, "main", &["sleep", "1000"])).await;
    let linux = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, cpu_shares: 512, ..Default::default() };
    let request =
        UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(linux.clone()), ..Default::default() };
    client.runtime.clone().update_container_resources(request).await.unwrap();
    assert_eq!(status(&client, &id).await.resources.unwrap().linux, Some(linux));
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max";
    assert!(says(&client, &id, limit).await.contains("67108864"));
    runtime.tear_down().await.unwrap();
    assert_eq!(world.traces(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_container_is_kept_in() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "kept");
    let sandbox = sandbox(&client, &pod).await;
    let host = world.root.path().join("host");
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("file"), "from the host").unwrap();
    let mut config = container_config(&image, "main", &["sleep", "1000"]);
    config.mounts = vec![Mount {
        container_path: "/mounted".into(),
        host_path: host.to_string_lossy().into_owned(),
        readonly: true,
        ..Default::default()
    }];
    security(&mut config).readonly_rootfs = true;
    security(&mut config).no_new_privs = true;
    security(&mut config).capabilities =
        Some(Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
    let id = run(&client, &sandbox, &pod, config).await;
    assert_eq!(says(&client, &id, "cat /mounted/file").await, "from the host");
    assert!(says(&client, &id, "echo x > /mounted/file").await.contains("Read-only"));
    assert!(says(&client, &id, "echo x > /file").await.contains("Read-only"));
    assert!(says(&client, &id, "grep CapEff /proc/self/status").await.ends_with("0000000000000000"));
    assert!(says(&client, &id, "grep NoNewPrivs /proc/self/status").await.ends_with('1'));
    assert!(says(&client, &id, "grep 'Seccomp:' /proc/self/status").await.ends_with('2'));
    let mounting = says(&client, &id, "mount -t tmpfs x /tmp; echo $?").await;
    assert!(mounting.to_lowercase().contains("perm") && !mounting.ends_with("\n0"), "{mounting}");
    assert_eq!(says(&client, &id, "hostname").await, "kept");
    assert_eq!(says(&client, &id, "ls /sys/class/net | sort | tr '\\n' ' '").await.replace("sort", ""), "eth0 lo");
    runtime.tear_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_shared_as_asked() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;

    let mut pod = sandbox_config(&world, "shared");
    let options = NamespaceOption { pid: NamespaceMode::Pod as i32, ..Default::default() };
    pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options.clone());
    let shared = sandbox(&client, &pod).await;
    let mut first = container_config(&image, "first", &["sleep", "4711"]);
    security(&mut first).namespace_options = Some(options.clone());
    let mut second = container_config(&image, "second", &["sleep", "1000"]);
    security(&mut second).namespace_options = Some(options);
    let first = run(&client, &shared, &pod, first).await;
    let second = run(&client, &shared, &pod, second).await;
    assert_ne!(says(&client, &second, "ps | grep -c '[4]711'").await, "0", "one sees the other");
    says(&client, &first, "echo hello > /dev/shm/word").await;
    assert_eq!(says(&client, &second, "cat /dev/shm/word").await, "hello");
    let request = StopContainerRequest { container_id: first.clone(), timeout: 0 };
    client.runtime.clone().stop_container(request).await.unwrap();
    assert_eq!(status(&client, &first).await.exit_code, 137);
    assert_eq!(status(&client, &second).await.state, ContainerState::ContainerRunning as i32);

    let mut pod = sandbox_config(&world, "host");
    pod.hostname = String::new();
    let options = NamespaceOption {
        network: NamespaceMode::Node as i32,
        pid: NamespaceMode::Node as i32,
        ipc: NamespaceMode::Node as i32,
        ..Default::default()
    };
    pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options.clone());
    let host = sandbox(&client, &pod).await;
    let mut config = container_config(&image, "main", &["sleep", "1000"]);
    security(&mut config).namespace_options = Some(options);
    security(&mut config).privileged = true;
    let id = run(&client, &host, &pod, config).await;
    let link = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    for name in ["net", "pid", "ipc", "uts"] {
        let seen = says(&client, &id, &format!("ls -l /proc/self/ns/{name}")).await;
        assert!(seen.ends_with(&link(name)), "{name}: {seen}");
    }
    let request = PodSandboxStatusRequest { pod_sandbox_id: host, verbose: false };
    let shown = client.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(shown.network.unwrap().ip, "");
    runtime.tear_down().await.unwrap();
    assert_eq!(world.traces(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_handler_runs_its_own_program() {
    let mut world = World::new();
    world.handler = "crun";
    let scratch = world.root.path().join("scratch");
    let handler = runtime::Handler::new("crun", "/usr/bin/crun");
    if let Err(error) = runtime::self_test(&handler, &scratch, runtime::COMMAND_TIMEOUT) {
        // A machine on which crun does not work says so here and by `sampan check`.
        assert!(error.to_string().contains("crun"), "{error}");
        return;
    }
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "crun");
    let sandbox = sandbox(&client, &pod).await;
    let id = run(&client, &sandbox, &pod, container_config(&image, "main", &["sh", "-c", "exit 4"])).await;
    assert_eq!(ended(&client, &id).await.exit_code, 4);
    runtime.tear_down().await.unwrap();
    assert_eq!(world.traces(), [""; 0]);
}
