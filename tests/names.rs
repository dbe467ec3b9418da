//! Names of code are the field's standard terms. This table has names that were given up, with
//! their successors, and keeps them from coming back.

use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The kind of a name. Names are looked for where they are defined, so a common word may be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `struct`, `enum`, `trait`, `type` or `union`.
    Type,
    /// `fn`, methods included.
    Function,
    /// `const` or `static`.
    Constant,
    /// `mod`.
    Module,
    /// A file or a directory, without `.rs`.
    File,
    /// Any identifier that is this word, wherever it stands.
    Identifier,
}

use Kind::{Constant, File, Function, Identifier, Module, Type};

/// A name that is given up, its successor, and the paths below which it is not used.
struct Row(Kind, &'static str, &'static str, &'static [&'static str]);

const EVERYWHERE: &[&str] = &["src/"];
const GATEWAY: &[&str] = &["src/gateway/"];
const RUNTIME: &[&str] = &["src/runtime/"];
const INSTALL: &[&str] = &["src/install/", "src/main.rs"];
const DECISIONS: &[&str] = &["src/core/src/", "src/controller/src/", "src/sim/src/"];
const APITEST: &[&str] = &["src/apitest/", "src/controller/src/tests/"];

/// Files that are not held to the table yet: they get their names as they are rewritten. A path
/// ending in `/` is a directory.
const EXEMPT: &[&str] = &["src/signals/"];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // decisions
    Row(Type, "ClusterRoom", "ClusterCapacity", DECISIONS),
    Row(Type, "QueueRoom", "QueueCapacity", DECISIONS),
    Row(Type, "NodeRoom", "NodeCapacity", DECISIONS),
    Row(Type, "HeldRoom", "OccupiedCapacity", DECISIONS),
    Row(Type, "RoomClaim", "CapacityClaim", DECISIONS),
    Row(Type, "Room", "SchedulingCapacity", DECISIONS),
    Row(Type, "Gang", "PodSet", DECISIONS),
    Row(Type, "GangRoom", "Preemptibility", DECISIONS),
    Row(Type, "RoomPreemption", "CapacityPreemption", DECISIONS),
    Row(Type, "TakenRoom", "ReclaimedCapacity", DECISIONS),
    Row(Type, "Rank", "SchedulingRank or BudgetRank", DECISIONS),
    Row(Type, "Subject", "TimerKey, ObjectKey or WatchedObject", DECISIONS),
    Row(Type, "Forecast", "DemandForecast or SpendForecast", DECISIONS),
    Row(Type, "Told", "PodIntent or LastReported", DECISIONS),
    Row(Type, "Looks", "BudgetTimers", DECISIONS),
    Row(Type, "Awaited", "MissingReplicaPods", DECISIONS),
    Row(Type, "UnfinishedRound", "PartialPass", DECISIONS),
    Row(Type, "FullTime", "SaturationWindow", DECISIONS),
    Row(Type, "FullPart", "SaturationBucket", DECISIONS),
    Row(Type, "BusyTime", "ServiceTime", DECISIONS),
    Row(Type, "Yields", "FreedBudget", DECISIONS),
    Row(Type, "Removals", "ScaleDownLimit", DECISIONS),
    Row(Type, "PodsRefused", "PodCreationFailure", DECISIONS),
    Row(Type, "RefusalReport", "PodCreationReport", DECISIONS),
    Row(Type, "RefusedJob", "DeniedJob", DECISIONS),
    Row(Type, "Refusals", "PodCreationFailures", DECISIONS),
    Row(Type, "HoldScope", "BlockScope", DECISIONS),
    Row(Type, "GivesWay", "Preemptor", DECISIONS),
    Row(Type, "Trial", "PreemptionDryRun", DECISIONS),
    Row(Type, "Behind", "BlockedGang", DECISIONS),
    Row(Type, "Trouble", "PodProblem", DECISIONS),
    Row(Type, "Witness", "InvariantChecker", DECISIONS),
    Row(Type, "Agenda", "EventQueue", DECISIONS),
    Row(Type, "Happening", "SimEvent", DECISIONS),
    Row(Function, "steady", "stabilize", DECISIONS),
    Row(Function, "leave_slowly", "limit_scale_down", DECISIONS),
    Row(Function, "staying", "non_draining", DECISIONS),
    Row(Identifier, "next_look", "requeue_at", DECISIONS),
    Row(Identifier, "patience", "start_timeout or node_start", DECISIONS),
    Row(Identifier, "gives_way", "preemption_allowed, preempted_by or waits_for_drain", DECISIONS),
    Row(Identifier, "gave_way", "last_preempted_by", DECISIONS),
    Row(Identifier, "gives_gpus_back", "preempted_for_gpus", DECISIONS),
    Row(Identifier, "keeps_room", "keeps_reservation", DECISIONS),
    Row(Identifier, "is_observed", "is_observe_only", DECISIONS),
    Row(Identifier, "lost_place_at", "deprioritized_at", DECISIONS),
    Row(File, "looks", "budget_timers", DECISIONS),
    Row(File, "awaited", "missing_replica_pods", DECISIONS),
    Row(File, "removals", "scale_down_limit", DECISIONS),
    Row(File, "witness", "invariants", DECISIONS),
    Row(File, "agenda", "event_queue", DECISIONS),
    Row(File, "acts", "random_actions", DECISIONS),
    Row(File, "room", "capacity", DECISIONS),
    // the gateway
    Row(File, "forward", "request", GATEWAY),
    Row(File, "body", "request_body", GATEWAY),
    Row(File, "refuse", "refusal", GATEWAY),
    Row(File, "serve", "listeners", GATEWAY),
    Row(File, "follow", "route_watch", GATEWAY),
    Row(File, "control", "demand_server", GATEWAY),
    Row(File, "meter", "metrics", GATEWAY),
    Row(File, "bounds", "limits", GATEWAY),
    Row(File, "waiting", "holding", GATEWAY),
    Row(Type, "Meters", "Metrics", GATEWAY),
    Row(Type, "Forwarder", "RequestHandler", GATEWAY),
    Row(Type, "Follower", "RouteWatch", GATEWAY),
    Row(Type, "Feed", "EventHandler", GATEWAY),
    Row(Type, "Routes", "RouteTable", GATEWAY),
    Row(Type, "Key", "ServiceKey", GATEWAY),
    Row(Type, "Terms", "HoldPolicy", GATEWAY),
    Row(Type, "Control", "DemandServer", GATEWAY),
    Row(Type, "Demand", "DemandTracker", GATEWAY),
    Row(Type, "Held", "HeldGuard", GATEWAY),
    Row(Type, "Busy", "ReplicaLoadGuard", GATEWAY),
    Row(Type, "Bodies", "BodyReader", GATEWAY),
    Row(Type, "Taken", "Usage", GATEWAY),
    Row(Type, "Place", "Reservation", GATEWAY),
    Row(Type, "Kept", "BufferedBody", GATEWAY),
    Row(Type, "World", "TestGateway", GATEWAY),
    Row(Function, "follow", "run or sync", GATEWAY),
    Row(Function, "keep", "set_socket_options", GATEWAY),
    Row(Function, "look", "lookup", GATEWAY),
    Row(Function, "room", "max_connections", GATEWAY),
    Row(Function, "leave", "refuse_held", GATEWAY),
    Row(Function, "converse", "serve_connection", GATEWAY),
    Row(Identifier, "welcome", "on_demand", GATEWAY),
    Row(Identifier, "told", "last_sent, or what was sent", GATEWAY),
    Row(Identifier, "silence", "idle_timeout", GATEWAY),
    Row(Constant, "LINGER", "ENDPOINT_PROPAGATION", GATEWAY),
    Row(Constant, "LAST_WORDS", "REFUSAL_DELIVERY_TIMEOUT", GATEWAY),
    // the runtime
    Row(File, "trace", "logging", RUNTIME),
    Row(File, "lease", "leader_election", RUNTIME),
    Row(Type, "Sight", "Observation", RUNTIME),
    Row(Function, "keep", "run", RUNTIME),
    Row(Function, "pace", "retry_period", RUNTIME),
    Row(Function, "patience", "renew_deadline", RUNTIME),
    Row(Function, "give_back", "release", RUNTIME),
    // installation
    Row(File, "release", "uninstall", INSTALL),
    Row(Type, "Done", "NotFoundAsNone", INSTALL),
    Row(Type, "Released", "Removed", INSTALL),
    Row(Function, "free", "remove_finalizer", INSTALL),
    Row(Function, "at_zero", "services_without_replicas", INSTALL),
    // the API server in memory
    Row(File, "select", "selector", &["src/apitest/"]),
    Row(File, "serve", "handler", &["src/apitest/"]),
    Row(Type, "Refusal", "StatusError", &["src/apitest/"]),
    Row(Function, "rival", "competing_write", APITEST),
    Row(Type, "Moment", "CrashPoint", APITEST),
    Row(Function, "carry", "copy_field", &["src/apitest/"]),
    Row(Function, "sign", "record_manager", &["src/apitest/"]),
    Row(Function, "told", "checked", &["src/apitest/"]),
    Row(Identifier, "forgotten", "compacted", &["src/apitest/"]),
    // the ledger, prices and reports
    Row(File, "stay", "pod_lifetime", EVERYWHERE),
    Row(File, "rest", "zero_replica_savings", EVERYWHERE),
    Row(File, "written", "write_cache", EVERYWHERE),
    Row(File, "pages", "month_accounts", EVERYWHERE),
    Row(File, "close", "month_close", EVERYWHERE),
    Row(File, "fold", "consolidate", EVERYWHERE),
    Row(File, "calls", "api_calls", EVERYWHERE),
    Row(File, "claims", "gpu_allocation", &["src/controller/src/ledger/"]),
    Row(File, "figures", "namespace_metrics", &["src/controller/"]),
    Row(File, "summary", "spend_status", &["src/controller/"]),
    Row(File, "offers", "gpu_inventory", EVERYWHERE),
    Row(File, "together", "effective", EVERYWHERE),
    Row(File, "text", "quantities", &["src/api/"]),
    Row(File, "facts", "attributes", EVERYWHERE),
    Row(File, "book", "price_list", EVERYWHERE),
    Row(File, "terms", "breakdown", EVERYWHERE),
    Row(Type, "Standing", "BudgetState, LiveCost or RecordPrecedence", EVERYWHERE),
    Row(Type, "Facts", "PricingAttributes", EVERYWHERE),
    Row(Type, "Line", "DailyCost", EVERYWHERE),
    Row(Type, "Sku", "CostKey", EVERYWHERE),
    Row(Type, "Rest", "ZeroReplicaPeriod", EVERYWHERE),
    Row(Type, "Holder", "CostOwner", EVERYWHERE),
    Row(Type, "Page", "MonthAccount", EVERYWHERE),
    Row(Type, "Pages", "MonthAccounts", EVERYWHERE),
    Row(Type, "Shelf", "WorkloadAccounts", EVERYWHERE),
    Row(Type, "Section", "ConsolidatedAccount", EVERYWHERE),
    Row(Type, "Fold", "Consolidation", EVERYWHERE),
    Row(Type, "Failure", "ApiError", EVERYWHERE),
    Row(Type, "Claims", "GpuAllocations", EVERYWHERE),
    Row(Type, "Offer", "GpuOffer", EVERYWHERE),
    Row(Type, "Concern", "Trigger", EVERYWHERE),
    Row(Type, "Departed", "Tombstones", EVERYWHERE),
    Row(Identifier, "concerns", "triggers", EVERYWHERE),
    Row(Type, "PriceBook", "PriceList", EVERYWHERE),
    Row(Type, "Quote", "HourlyRate", EVERYWHERE),
    Row(Function, "turn_to", "ensure_month", EVERYWHERE),
    Row(Function, "fold", "consolidate", EVERYWHERE),
    Row(Function, "bounded", "with_timeout", EVERYWHERE),
    Row(Function, "ensure", "apply_if_changed", EVERYWHERE),
    Row(Function, "knows", "contains", EVERYWHERE),
    Row(Function, "book", "post_days_until", EVERYWHERE),
    Row(Function, "enter", "post", &["src/core/", "src/api/", "src/controller/"]),
    Row(Function, "wake", "end_zero_replica_period", &["src/core/", "src/api/", "src/controller/"]),
    Row(Function, "carry", "carry_forward", EVERYWHERE),
    Row(Function, "round", "sync_once", EVERYWHERE),
    Row(Function, "look", "sync_once, or lookup", EVERYWHERE),
    Row(Function, "follow", "run", EVERYWHERE),
    Row(Function, "keep", "sync", EVERYWHERE),
    Row(Function, "judge", "evaluate, validate or sync_once", EVERYWHERE),
    // kubectl bursar
    Row(File, "read", "client", &["src/cli/"]),
    Row(File, "page", "format", &["src/cli/"]),
    Row(File, "table", "format", &["src/cli/src/explain/"]),
    Row(File, "money", "explain/cost", &["src/cli/"]),
    Row(Type, "Asked", "ExplainArgs, ReportArgs or TopArgs", EVERYWHERE),
    Row(Type, "Sheet", "LoadedAccount", EVERYWHERE),
    Row(Type, "Books", "NamespaceAccounts", EVERYWHERE),
    Row(Type, "Scene", "NamespaceState or DrainInput", EVERYWHERE),
    Row(Function, "foremost", "authoritative", EVERYWHERE),
    Row(Function, "said", "error_chain", EVERYWHERE),
    Row(Function, "beside", "what it adds", &["src/cli/"]),
    // decisions
    Row(Type, "Purse", "BudgetAdmission", EVERYWHERE),
    Row(Type, "Refused", "Denied", &["src/core/"]),
    Row(Type, "Turn", "JobDecision", EVERYWHERE),
    Row(Type, "Desire", "Recommendation", EVERYWHERE),
    Row(Type, "Load", "RunningCost", &["src/core/"]),
    Row(Identifier, "stuck", "start_failure", &["src/core/"]),
    Row(Identifier, "unheard", "unreachable_gateway", &["src/core/"]),
    Row(Identifier, "active_at", "last_active", &["src/core/"]),
    // all crates
    Row(Identifier, "PATIENCE", "a timeout with its subject", EVERYWHERE),
];

/// An identifier in a file, with its line, and its kind if an item defines it.
struct Found {
    kind: Option<Kind>,
    name: String,
    line: usize,
}

/// Collects all identifiers of a file.
fn identifiers(stream: TokenStream, found: &mut Vec<Found>) {
    let mut before: Option<String> = None;
    for token in stream {
        let name = match &token {
            TokenTree::Group(group) => {
                identifiers(group.stream(), found);
                None
            }
            TokenTree::Ident(name) => Some(name.to_string()),
            _ => None,
        };
        if let Some(name) = &name {
            let kind = match before.as_deref() {
                Some("struct" | "enum" | "trait" | "type" | "union") => Some(Type),
                Some("fn") => Some(Function),
                Some("const" | "static") => Some(Constant),
                Some("mod") => Some(Module),
                _ => None,
            };
            found.push(Found {
                kind,
                name: name.clone(),
                line: token.span().start().line,
            });
        }
        before = name;
    }
}

/// All Rust files under a directory, sorted by path.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn is_below(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

/// The violations of the table in one file.
fn violations(path: &str, text: &str, rows: &[Row]) -> Vec<String> {
    let rows: Vec<&Row> = rows
        .iter()
        .filter(|Row(_, _, _, prefixes)| is_below(path, prefixes))
        .collect();
    let mut violations = Vec::new();
    for Row(_, name, instead, _) in rows.iter().filter(|row| row.0 == File) {
        let parts = Path::new(path).with_extension("");
        if parts.iter().any(|part| part == *name) {
            violations.push(format!("{path}: a file named {name}; use {instead}"));
        }
    }
    let mut found = Vec::new();
    identifiers(text.parse().expect("a file that compiles"), &mut found);
    for Found { kind, name, line } in found {
        for Row(banned, _, instead, _) in rows.iter().filter(|row| row.1 == name) {
            if *banned == Identifier || Some(*banned) == kind {
                violations.push(format!("{path}:{line}: {name}; use {instead}"));
            }
        }
    }
    violations
}

#[test]
fn names_that_were_given_up_do_not_come_back() {
    let mut failures = Vec::new();
    let files = rust_files(&Path::new(ROOT).join("src"));
    assert!(files.len() > 100, "{} files", files.len());
    for file in files {
        let path = file.strip_prefix(ROOT).unwrap().display().to_string();
        if !is_below(&path, EXEMPT) {
            let text = std::fs::read_to_string(&file).unwrap();
            failures.extend(violations(&path, &text, ROWS));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn paths_of_the_table_exist() {
    let prefixes = ROWS.iter().flat_map(|Row(_, _, _, prefixes)| *prefixes);
    for path in prefixes.chain(EXEMPT) {
        assert!(Path::new(ROOT).join(path).exists(), "{path}");
    }
}

#[test]
fn a_word_is_found_as_the_kind_of_name_that_its_row_bans() {
    let rows = [
        Row(Type, "Line", "DailyCost", EVERYWHERE),
        Row(Function, "book", "post", EVERYWHERE),
        Row(Identifier, "told", "sent", EVERYWHERE),
        Row(File, "rest", "zero_replicas", EVERYWHERE),
    ];
    let text = "// fn book, told\nstruct Line { book: Told }\nfn page() { let told = \"told\"; }\nfn book() {}";
    assert_eq!(
        violations("src/core/src/rest.rs", text, &rows),
        [
            "src/core/src/rest.rs: a file named rest; use zero_replicas",
            "src/core/src/rest.rs:2: Line; use DailyCost",
            "src/core/src/rest.rs:3: told; use sent",
            "src/core/src/rest.rs:4: book; use post",
        ]
    );
    assert_eq!(violations("e2e/src/rest.rs", text, &rows), [""; 0]);
}
