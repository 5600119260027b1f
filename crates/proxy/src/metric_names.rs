//! Every metric this product exports: one file, so that a name is chosen once and found once.
//!
//! Counters carry `_total` on the wire; the encoder adds it.

/// Clients accepted, by listener.
pub const CONNECTIONS: &str = "edge_connections";
/// Client connections open now, by listener.
pub const CONNECTIONS_CURRENT: &str = "edge_connections_current";
/// Time to connect to a backend in ms, by the backend's region.
pub const BACKEND_LATENCY_MS: &str = "edge_backend_latency_ms";
/// Connections a backend has open from this POP.
pub const BACKEND_CONNECTIONS: &str = "edge_backend_connections";
/// 1 while checks and heartbeats say the backend is up.
pub const BACKEND_UP: &str = "edge_backend_up";
/// 1 while failed connects keep the backend ejected.
pub const BACKEND_EJECTED: &str = "edge_backend_ejected";
/// Times a backend was ejected.
pub const EJECTIONS: &str = "edge_ejections";
/// Clients turned away, by listener and reason.
pub const REFUSED: &str = "edge_refused";
/// Connections that ended, by reason.
pub const CLOSED: &str = "edge_closed";
/// Connects to a backend that failed, by error.
pub const CONNECT_FAILURES: &str = "edge_connect_failures";
/// Connects made again on another backend.
pub const RETRIES: &str = "edge_retries";
/// Bytes relayed: `in` from clients, `out` to clients.
pub const BYTES: &str = "edge_bytes";
/// Bytes relayed without passing through user space, out of those.
pub const SPLICED_BYTES: &str = "edge_spliced_bytes";
/// Clients waiting for a full app to have room.
pub const QUEUE_WAITING: &str = "edge_queue_waiting";
/// How long clients that were admitted from the queue had waited, in ms.
pub const QUEUE_WAIT_MS: &str = "edge_queue_wait_ms";
/// Clients waiting for a backend of the role they need.
pub const HELD: &str = "edge_held";
/// How long clients that were admitted after that had waited, in ms.
pub const HOLD_MS: &str = "edge_hold_ms";
/// Clients of replicas that were served by the primary, by listener.
pub const REPLICA_ON_PRIMARY: &str = "edge_replica_on_primary";
/// Times an app had another primary, or none any more, by app.
pub const ROLE_CHANGES: &str = "edge_role_changes";
/// 1 while several backends of an app claim to be its primary, by app.
pub const DISPUTED: &str = "edge_primary_disputed";
/// 1 for the role that a backend has, by backend and role.
pub const BACKEND_ROLE: &str = "edge_backend_role";
/// Bytes of the log that a replica lacks.
pub const BACKEND_LAG_BYTES: &str = "edge_backend_lag_bytes";
/// Age of what a replica applied last, in seconds; 0 once nothing is missing.
pub const BACKEND_LAG_SECONDS: &str = "edge_backend_lag_seconds";
/// Accepts that failed, by error.
pub const ACCEPT_ERRORS: &str = "edge_accept_errors";
/// Active checks made, by result.
pub const CHECKS: &str = "edge_checks";
/// Reloads of the routing table, by result.
pub const TABLE_RELOADS: &str = "edge_table_reloads";
/// Backends in the table that serves.
pub const TABLE_BACKENDS: &str = "edge_table_backends";
/// Rows rejected in the last load.
pub const TABLE_REJECTED_ROWS: &str = "edge_table_rejected_rows";
/// Reloads of the geo table, by result.
pub const GEO_RELOADS: &str = "edge_geo_reloads";
/// Lines of the connection log lost because its destination was too slow, or failed.
pub const CONNECTION_LOG_DROPPED: &str = "edge_connection_log_dropped";
/// Datagrams and packets of the overlay that were not passed on, by reason.
pub const OVERLAY_LOST: &str = "edge_overlay_lost";
/// Peers of the overlay that are registered.
pub const OVERLAY_PEERS: &str = "edge_overlay_peers";
/// Peers that a gateway has registered, awake or not.
pub const GATEWAY_PEERS: &str = "edge_gateway_peers";
/// Those of them that have or had a session and are remembered.
pub const GATEWAY_PEERS_AWAKE: &str = "edge_gateway_peers_awake";
/// Addresses of a pool, by its network.
pub const GATEWAY_ADDRESSES: &str = "edge_gateway_addresses";
/// Those of them that are somebody's, the network's own, or rest; by network.
pub const GATEWAY_ADDRESSES_TAKEN: &str = "edge_gateway_addresses_taken";
/// Addresses that nobody has any more and nobody gets yet.
pub const GATEWAY_ADDRESSES_RESTING: &str = "edge_gateway_addresses_resting";
/// Time from a request for a peer to its answer, in seconds.
pub const GATEWAY_CREATE_SECONDS: &str = "edge_gateway_create_seconds";
/// Peers created, removed, rotated, and ended as their time was over (`expired`) or they were idle, by change.
pub const GATEWAY_CHANGES: &str = "edge_gateway_changes";
/// Requests about peers that were not done, by reason.
pub const GATEWAY_REFUSALS: &str = "edge_gateway_refusals";
/// 1 while `/readyz` says ready.
pub const READY: &str = "edge_ready";
/// 1, with the version as label.
pub const BUILD_INFO: &str = "edge_build_info";
/// Open descriptors of this process.
pub const PROCESS_OPEN_FDS: &str = "process_open_fds";
/// Descriptors this process may open.
pub const PROCESS_MAX_FDS: &str = "process_max_fds";
/// Resident memory in bytes.
pub const PROCESS_RESIDENT_MEMORY_BYTES: &str = "process_resident_memory_bytes";
/// User and system CPU time in seconds.
pub const PROCESS_CPU_SECONDS: &str = "process_cpu_seconds";
/// Start of this process, Unix time in seconds.
pub const PROCESS_START_TIME_SECONDS: &str = "process_start_time_seconds";
