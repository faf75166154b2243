"""The typed configuration of one node, read once at start. Each part gets its own section only.

The file is TOML; `PERENNE_<SECTION>__<KEY>` in the environment overrides a key (docs/observability.md is about
watching; `perenne config check FILE` explains what is wrong here). Every key, its default and its effect stand in
this file; docs/configuration.md is written from it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from perenne.dimse.settings import AllowedAe, DimseSettings

MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Who this node is, and where its bytes are."""

    id: str = "n1"
    """Name of this node, unique in the cluster: letters, digits, `-`, `_` and `.`, at most 32."""

    data_dir: Path = Path("perenne-data")
    """The data directory: log, index, staging. One process at a time may use it. Made when it does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """What Success means. Equal on every node of a cluster."""

    copies_required: int = 2
    """Smallest in-sync set, the leader included, that may answer a C-STORE with Success."""

    segment_bytes: int = 256 * MEBIBYTE
    """Size of a log file. Fixed when the cluster is made; a node with another value is refused."""

    allow_solo: bool = False
    """Allow one durable copy to be enough. With neither ZooKeeper nor a tier nothing is stored unless this is true."""

    acknowledge_timeout_ms: int = 10_000
    """Then the sender gets A700 (out of resources) and may retry; the record may yet commit."""

    conflict_policy: str = "keep-first"
    """Of two data sets with one SOP Instance UID, which is current: `keep-first`, `newest`, or `refuse` the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinationConfig:
    """Where the election takes place."""

    zookeeper: str = ""
    """`host:port,host:port,…`, with an optional `/chroot` at the end. Empty: a standalone node."""

    session_timeout_ms: int = 6_000
    """A leader that is silent for so long is replaced. Shorter finds a dead leader sooner, and a busy one too."""

    tls: bool = False
    """Speak TLS to ZooKeeper, with the files of [tls]. Its certificate must be of the same authority."""

    credentials_file: Path | None = None
    """One line `user:password`. With it everything in ZooKeeper belongs to that user alone (digest ACL)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """The port on which nodes talk to each other."""

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every interface. Nothing is reachable from outside until one is named."""

    port: int = 11111
    """0 takes any free port; it is announced through ZooKeeper."""

    advertise_host: str = ""
    """How the other nodes reach this one. Empty: `host`, or the host name when that is 0.0.0.0."""

    stall_timeout_ms: int = 2_000
    """A follower that confirms nothing for so long while records wait for it is taken out of the in-sync set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseConfig:
    """The DICOM port. Limits are for one node."""

    ae_title: str = "PERENNE"
    """The AE title of this node; the nodes of a cluster may share one."""

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every interface."""

    port: int = 11112
    """The registered DICOM ports are 104 and 11112; 0 takes any free port."""

    require_called_ae: bool = False
    """Refuse associations that call another AE title than ours."""

    max_associations: int = 200
    """Further associations are rejected for the time being."""

    max_pdu_bytes: int = 128 * 1024
    """Largest P-DATA-TF PDU that we offer to receive (PS3.8 annex D.1)."""

    association_bytes: int = 64 * MEBIBYTE
    """Unanswered bytes of one association beyond which its socket is not read."""

    total_bytes: int = 256 * MEBIBYTE
    """The same for all associations together."""

    background_bytes: int = 4 * MEBIBYTE
    """Larger instances are hashed and written in a thread."""

    artim_timeout_ms: int = 30_000
    """For the association request to arrive, and for the peer to close (PS3.8 section 9.1.4)."""

    idle_timeout_ms: int = 3_600_000
    """An association on which nothing arrives for so long is aborted."""

    message_timeout_ms: int = 30_000
    """The same in the middle of a message: what arrived of it is held in memory, and its sender is gone or stuck."""

    tls: str = "off"
    """`off`; `beside`: DICOM TLS (PS3.15 annex B.12, BCP 195) on tls_port as well; `only`: on tls_port alone."""

    tls_port: int = 2762
    """The registered port of DICOM TLS; 0 takes any free port."""

    tls_clients: str = "any"
    """`any` caller, or only `known` ones, with a certificate of tls_authority_file."""

    tls_certificate_file: Path | None = None
    """The certificate shown to modalities, of the hospital's own authority as a rule. Absent: that of [tls]."""

    tls_key_file: Path | None = None
    """Its key."""

    tls_authority_file: Path | None = None
    """Who signs the certificates of modalities. Absent: the authority of [tls]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AeConfig:
    """One `[[ae]]` entry. With at least one, only these may associate."""

    title: str
    """The calling AE title."""

    host: str | None = None
    """A name, an address, or a network such as 10.1.0.0/16; absent allows any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """The port for load balancers, Prometheus and people."""

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every interface."""

    port: int = 8080
    """0 takes any free port."""

    tls: bool = False
    """Speak https, with the certificate of [tls]."""

    token_file: Path | None = None
    """One line of letters, digits and `-._~+/`. With it everything but the probes wants `Authorization: Bearer TOKEN`.
    Without it there is no authentication: keep the port inside."""

    open_metrics: bool = True
    """Let /metrics be read without the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """The disk of one node."""

    direct_io: bool = True
    """Write large instances past the page cache (O_DIRECT), where the file system can."""

    reserve_bytes: int = 1024 * MEBIBYTE
    """With less free space than this the node leaves the in-sync set and refuses stores; it never deletes."""

    spare_segments: int = 2
    """Zeroed log files kept ready, so that no store waits for one."""

    memory_instance_bytes: int = 16 * MEBIBYTE
    """Larger instances are received into a file under staging/."""

    staging_pool_bytes: int = 256 * MEBIBYTE
    """Memory kept for instances while they are received."""

    evict_below_free_bytes: int = 0
    """With less free space, sealed segments that the tier holds are evicted, oldest first (docs/tier.md). 0: never.
    Two segments more than the reserve, at least: what was deleted out of evicted ones comes back to be compacted."""

    evict_tier_alone: bool = False
    """Evict although no other node keeps everything: the tier is alone with it then, and must be redundant itself."""

    evict_cache_bytes: int = 64 * MEBIBYTE
    """Memory for parts of evicted segments that were read back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubConfig:
    """Reading everything again before somebody needs it: bytes rot where nobody looks (docs/operating.md)."""

    light_every_ms: int = 86_400_000
    """From the start of one light pass to the next (headers, tables, chain, and other nodes' chains); 0 for never."""

    deep_every_ms: int = 604_800_000
    """The same for every payload against its digest: a week. 0 for never."""

    per_second_bytes: int = 100 * MEBIBYTE
    """At most; 0 for as fast as the disk allows. It waits while somebody stores or reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierConfig:
    """The tier: an S3-compatible bucket, or a directory on a SAN or NFS mount (docs/tier.md). Equal on every node.

    There is none as long as neither a bucket nor a directory is named.
    """

    mode: str = "standby"
    """`standby`: it follows within seconds, and takes the place of a lost peer. `synchronous`: every store waits for it
    as well, whenever it answers. `off`: it is left alone."""

    kind: str = "s3"
    """`s3`, or `directory`."""

    endpoint: str = ""
    """Of the S3 server, for example `https://s3.pacs.example`. Asked directly: proxies are not used."""

    bucket: str = ""
    """The bucket, addressed by path. `perenne tier prepare` makes it."""

    prefix: str = ""
    """Before every key in the bucket: letters, digits, `.`, `_`, `-` and `/`, with a `/` at the end."""

    region: str = "us-east-1"
    """For the signature. Servers of one's own rarely look at it."""

    ca_file: Path | None = None
    """PEM file of the authority that signed the server's certificate, instead of the public ones."""

    credentials_file: Path | None = None
    """An AWS credentials file, profile `default`. Absent: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""

    encryption: str = ""
    """Server-side encryption: `AES256`, `aws:kms`, or empty for what the bucket does by itself."""

    kms_key: str = ""
    """The key of `aws:kms`; empty for the account's own."""

    object_lock_days: int = 0
    """Retain sealed segments for so long in compliance mode: nobody can delete them earlier. 0 for not at all."""

    storage_class: str = ""
    """Of every object; empty for the bucket's default. A class that answers in hours makes a takeover take hours."""

    directory: Path | None = None
    """For `kind = "directory"`: where the SAN or NFS is mounted. `perenne tier prepare` marks it, once."""

    attempt_timeout_ms: int = 3_000
    """One request that says nothing for so long has failed; it may yet be applied."""

    give_up_ms: int = 5_000
    """Then no further attempt is made: the tier has failed. Large objects get more, by their size."""

    connections: int = 8
    """Requests at once."""

    pack_rate_bytes: int = 64 * MEBIBYTE
    """Sealed segments replace small objects at no more than so many bytes a second. 0: as fast as it goes."""

    @property
    def on(self) -> bool:
        """Whether a node uses it."""
        named = self.directory is not None if self.kind == "directory" else bool(self.endpoint or self.bucket)
        return self.mode != "off" and named


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Who this node is to others, and whom it believes (docs/security.md). `perenne certs` makes these files.

    With them the peer port speaks mutual TLS 1.3 alone, on every node of the cluster. A file that changes is read
    again within seconds, without a restart.
    """

    authority_file: Path | None = None
    """PEM file of the private authority that signs the nodes of this cluster, and nobody else."""

    certificate_file: Path | None = None
    """PEM file of this node's certificate. Its common name is [node] id."""

    key_file: Path | None = None
    """PEM file of its private key, without a password; readable by this node alone."""

    @property
    def on(self) -> bool:
        return self.certificate_file is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """What the node writes to standard error. Never patient data."""

    level: str = "info"
    """`debug`, `info`, `warning` or `error`."""

    format: str = "json"
    """`json`: one object per line. `text`: for eyes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    """Deleting: who must agree, and what may go by its age (docs/operating.md). Equal on every node."""

    approval: str = "one-person"
    """`one-person`: whoever may write to ZooKeeper deletes. `two-person`: a second person approves each delete."""

    rules: str = ""
    """What `perenne retention` proposes, for example `modality=US,OT age=10y since=study; modality=SC age=90d
    since=arrival ae=CAM1`. A study goes when all of it fits one rule. Empty: nothing ever does."""

    grace_days: int = 30
    """Nothing that arrived in the last so many days is proposed, whatever its study date says."""

    undo_days: int = 30
    """For so long a delete can be undone: compaction leaves alone what younger tombstones cover."""

    compact_daily: bool = False
    """Once a day the leader permits what `perenne compact` would. Off: bytes go only when somebody says so."""

    returning_aes: str = "IMPORT PERENNE-LOST"
    """Calling AE titles, with spaces between them, that send what was stored before: `perenne import`, `lost-found
    resubmit`, an archive that is moved here. From them what was deleted is refused with 0124; from others it is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a node needs to know. Defaults make a standalone node that refuses stores and says why."""

    node: NodeConfig = field(default_factory=NodeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    coordination: CoordinationConfig = field(default_factory=CoordinationConfig)
    peer: PeerConfig = field(default_factory=PeerConfig)
    dimse: DimseConfig = field(default_factory=DimseConfig)
    ae: tuple[AeConfig, ...] = ()
    http: HttpConfig = field(default_factory=HttpConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    scrub: ScrubConfig = field(default_factory=ScrubConfig)
    tier: TierConfig = field(default_factory=TierConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)

    @property
    def standalone(self) -> bool:
        """No ZooKeeper: one node, which is its own leader."""
        return not self.coordination.zookeeper

    @property
    def copies_required(self) -> int:
        """Copies that Success stands for: 1 for a standalone node whose operator allowed it, else as configured."""
        if self.standalone and self.cluster.allow_solo:
            return 1
        return self.cluster.copies_required

    def dimse_settings(self) -> DimseSettings:
        """The DICOM port's own view, in its units."""
        dimse = self.dimse
        return DimseSettings(
            ae_title=dimse.ae_title,
            host=dimse.host,
            port=None if dimse.tls == "only" else dimse.port,
            tls_port=None if dimse.tls == "off" else dimse.tls_port,
            max_associations=dimse.max_associations,
            max_pdu=dimse.max_pdu_bytes,
            association_bytes=dimse.association_bytes,
            total_bytes=dimse.total_bytes,
            background_bytes=dimse.background_bytes,
            artim_s=dimse.artim_timeout_ms / 1000,
            idle_s=dimse.idle_timeout_ms / 1000,
            message_s=dimse.message_timeout_ms / 1000,
            aes=tuple(AllowedAe(entry.title, entry.host) for entry in self.ae),
            require_called_ae=dimse.require_called_ae,
            returning_aes=frozenset(self.retention.returning_aes.split()),
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong. where: file or environment variable, and key. next_step: what to write instead."""

    where: str
    cause: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.where}: {self.cause}. {self.next_step}"


class ConfigError(Exception):
    """Everything that is wrong with a configuration, at once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
