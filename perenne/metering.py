"""What feeds a node's metrics: every collector that it registers, each with the part that it reads."""

from monitoring.certificates import CertificateMetrics
from monitoring.drill import DrillMetrics
from monitoring.metrics import Metrics
from monitoring.room import RoomMetrics
from perenne import VERSION
from perenne.config_tls import Keyrings
from perenne.shown import Parts


def metered(parts: Parts, keyrings: Keyrings) -> Metrics:
    """Everything that a node exports."""
    config = parts.config
    titles = [one.title for one in config.ae]
    metrics = Metrics(parts.statistics, version=VERSION, titles=titles)
    metrics.registry.register(CertificateMetrics(keyrings.expiries, keyrings.authority_expiries))
    metrics.registry.register(DrillMetrics(config.node.data_dir / "drill.json"))
    metrics.registry.register(RoomMetrics(config.node.data_dir))
    return metrics
