//! Columns of tables, as `kubectl get` prints them.

/// One column. Cells come from `Rules::cells`, in the order of the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading; kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`.
    pub kind: &'static str,
    /// `name` for the column that names the object, else empty.
    pub format: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// 0 is always shown, 1 only in wide output.
    pub priority: i32,
}

impl Column {
    const fn new(name: &'static str, kind: &'static str, description: &'static str, priority: i32) -> Column {
        Column { name, kind, format: "", description, priority }
    }
}

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name of the object, unique among its kind in its namespace.",
    priority: 0,
};
const WIDE_NAME: Column = Column { priority: 1, ..NAME };
const AGE: Column = text("Age", "Time since the object was created.");

const fn text(name: &'static str, description: &'static str) -> Column {
    Column::new(name, "string", description, 0)
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column::new(name, "string", description, 1)
}

pub(crate) const PODS: &[Column] = &[
    NAME,
    text("Ready", "Ready containers of all that are meant to keep running."),
    text("Status", "What the containers of the pod are doing, in one word."),
    text("Restarts", "How often containers were restarted, and how long ago the last time was."),
    AGE,
    wide("IP", "First address of the pod."),
    wide("Node", "Node that the pod runs on."),
    wide("Nominated Node", "Node that is being cleared for the pod."),
    wide("Readiness Gates", "Readiness gates that are true, of all."),
];

pub(crate) const REVIEWS: &[Column] = &[NAME];

pub(crate) const POD_TEMPLATES: &[Column] = &[
    NAME,
    text("Containers", "Names of the containers of the template."),
    text("Images", "Images of the containers of the template."),
    text("Pod Labels", "Labels of the template."),
];

pub(crate) const NODES: &[Column] = &[
    NAME,
    text("Status", "Whether the node is ready and takes pods."),
    text("Roles", "Roles of the node."),
    AGE,
    text("Version", "Version of the node agent."),
    wide("Internal-IP", "Address inside of the cluster."),
    wide("External-IP", "Address outside of the cluster."),
    wide("OS-Image", "Operating system of the node."),
    wide("Kernel-Version", "Kernel of the node."),
    wide("Container-Runtime", "Container runtime of the node and its version."),
];

pub(crate) const NAMESPACES: &[Column] = &[NAME, text("Status", "Active or Terminating."), AGE];

pub(crate) const SECRETS: &[Column] =
    &[NAME, text("Type", "What the secret is for."), text("Data", "Number of entries."), AGE];

pub(crate) const CONFIG_MAPS: &[Column] = &[NAME, text("Data", "Number of entries."), AGE];

pub(crate) const SERVICE_ACCOUNTS: &[Column] = &[NAME, AGE];

pub(crate) const EVENTS: &[Column] = &[
    text("Last Seen", "Time since the event was last seen."),
    text("Type", "Normal or Warning."),
    text("Reason", "Machine-readable reason."),
    text("Object", "What the event is about."),
    wide("Subobject", "Part of the object that the event is about."),
    wide("Source", "Who reports the event."),
    text("Message", "What happened, for people."),
    wide("First Seen", "Time since the event was first seen."),
    wide("Count", "How often the event was seen."),
    WIDE_NAME,
];

pub(crate) const LEASES: &[Column] = &[NAME, text("Holder", "Who holds the lease."), AGE];

pub(crate) const RUNTIME_CLASSES: &[Column] = &[
    NAME,
    text("Handler", "Runtime configuration that the class means."),
    AGE,
    wide("Works", "Nodes on which the handler runs a test container, of those that know it."),
    wide("Cold Start", "How long that container took on these nodes."),
    wide("Declared", "Memory that the class declares as overhead of a pod."),
    wide("Measured", "Memory that a pod's sandbox takes: medians of the nodes."),
];

pub(crate) const LIMIT_RANGES: &[Column] =
    &[NAME, Column::new("Created At", "date", "When the object was created.", 0)];

pub(crate) const DISRUPTION_BUDGETS: &[Column] = &[
    NAME,
    text("Min Available", "Pods that have to stay healthy."),
    text("Max Unavailable", "Pods that may be missing or not healthy."),
    count("Allowed Disruptions", "Pods that may be evicted now."),
    AGE,
];

pub(crate) const ROLES: &[Column] = LIMIT_RANGES;

pub(crate) const ROLE_BINDINGS: &[Column] = &[
    NAME,
    text("Role", "Kind and name of the role that is given."),
    AGE,
    wide("Users", "Users that the role is given to."),
    wide("Groups", "Groups that the role is given to."),
    wide("ServiceAccounts", "Service accounts that the role is given to."),
];

pub(crate) const RESOURCE_QUOTAS: &[Column] = &[
    NAME,
    text("Request", "Objects and requests that are in use, of all that may be."),
    text("Limit", "Limits that are in use, of all that may be."),
    AGE,
];

pub(crate) const CONTROLLER_REVISIONS: &[Column] = &[
    NAME,
    text("Controller", "Who owns the revision."),
    Column::new("Revision", "integer", "Number of the revision, in the order of their making.", 0),
    AGE,
];

pub(crate) const PRIORITY_CLASSES: &[Column] = &[
    NAME,
    Column::new("Value", "integer", "Priority of pods of this class.", 0),
    Column::new("Global-Default", "boolean", "Whether pods without a class get this one.", 0),
    AGE,
    wide("PreemptionPolicy", "Whether pods of this class may push out others."),
];

const CONTAINERS: Column = wide("Containers", "Names of the containers of the template.");
const IMAGES: Column = wide("Images", "Images of the containers of the template.");
const SELECTOR: Column = wide("Selector", "Labels of the pods that belong here.");

const fn count(name: &'static str, description: &'static str) -> Column {
    Column::new(name, "integer", description, 0)
}

pub(crate) const REPLICAS: &[Column] = &[
    NAME,
    count("Desired", "Pods that there should be."),
    count("Current", "Pods that there are."),
    count("Ready", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const DEPLOYMENTS: &[Column] = &[
    NAME,
    text("Ready", "Pods that are ready, of all that there should be."),
    text("Up-to-date", "Pods of the newest template."),
    text("Available", "Pods that have been ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const STATEFUL_SETS: &[Column] =
    &[NAME, text("Ready", "Pods that are ready, of all that there should be."), AGE, CONTAINERS, IMAGES];

pub(crate) const DAEMON_SETS: &[Column] = &[
    NAME,
    count("Desired", "Nodes that should have a pod."),
    count("Current", "Nodes that have a pod and should."),
    count("Ready", "Nodes whose pod is ready."),
    count("Up-to-date", "Nodes whose pod is of the newest template."),
    count("Available", "Nodes whose pod has been ready for long enough."),
    text("Node Selector", "Labels of the nodes that get a pod."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const JOBS: &[Column] = &[
    NAME,
    text("Status", "Whether the job runs, has ended, and how."),
    text("Completions", "Pods that have succeeded, of all that should."),
    text("Duration", "Time from the start of the job to its end, or until now."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const CRON_JOBS: &[Column] = &[
    NAME,
    text("Schedule", "Times of the jobs, as cron writes them."),
    text("Timezone", "Time zone of the schedule."),
    text("Suspend", "Whether no jobs are made for now."),
    count("Active", "Jobs that run."),
    text("Last Schedule", "Time since the last job was made."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const SCALES: &[Column] =
    &[NAME, count("Desired", "Pods that there should be."), count("Available", "Pods that there are."), AGE];

pub(crate) const CERTIFICATE_REQUESTS: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", "Who is to sign the certificate."),
    text("Requestor", "The user that asks for it."),
    text("RequestedDuration", "How long the certificate shall be valid, if the request says so."),
    text("Condition", "Whether it is approved, denied, failed, issued, or pending."),
];

pub(crate) const WEBHOOKS: &[Column] = &[NAME, count("Webhooks", "Number of webhooks."), AGE];
