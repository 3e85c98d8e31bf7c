"""What hosts of a cluster tell Prometheus: of themselves, of the cluster as each sees it, and of the logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.test_metrics import DASHBOARD, Watched, dashboard_expressions, names_in
from tests.support.service import ROOT, Serve
from tidegate.runtime.addresses import free_port
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.metrics.catalogue import CLUSTER, Kind

APP = str(ROOT / "tests" / "service" / "apps" / "tills.py")
START_S = 60.0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[NatsServers]:
    with NatsServers(tmp_path / "nats") as started:
        yield started


def test_hosts_tell_of_the_cluster_and_of_its_logs(serve: Serve, servers: NatsServers, tmp_path: Path) -> None:
    hosts = {}
    for name in ("a", "b"):
        port, config = free_port(), tmp_path / f"{name}.toml"
        config.write_text(f'[metrics]\nlisten = "127.0.0.1:{port}"\n')
        service = serve(app=APP, data=tmp_path / name, start=False)
        service.expect("nats: ", "a publish after message", "nothing is read behind message", "host a|is lost")
        place = f"{','.join(servers.urls)}/metrics"
        service.launch(1, "--cluster", place, "--host-name", name, "--config", str(config))
        service.wait_for_output("is ready on", within_s=START_S)
        hosts[name] = Watched(service, port)
    first, second = hosts["a"], hosts["b"]
    here = ("tidegate_cluster_hosts", (("state", "here"),))
    owned = ("tidegate_cluster_shards_owned", ())

    def is_dealt(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> bool:
        return (samples.get(here), samples.get(owned), samples.get(("tidegate_cluster_shards_moving", ()))) == (2, 4, 0)

    second.wait_for(is_dealt, "both hosts, with half of the shards each")
    for number in range(8):
        assert second.service.call("Till", f"till-{number}", "add") == 1
    publishes, claims = ((f"tidegate_cluster_{name}_total", (("process", "worker 0"),)) for name in ("publishes", "claims"))
    samples = second.wait_for(lambda samples: samples.get(claims) == 4 and samples.get(publishes, 0) > 4, "its claims, and calls")
    for metric in CLUSTER:
        found = [value for (name, _), value in samples.items() if name == metric.name]
        assert found, metric.name
        if metric.kind is Kind.COUNTER:
            assert all(value >= 0 for value in found)
    assert samples["tidegate_cluster_shards_wanted", ()] == 4
    assert samples["tidegate_cluster_shards_unserved", ()] == 0
    assert samples["tidegate_cluster_apart", ()] == 0
    assert samples["tidegate_cluster_placement_revision", ()] > 0
    assert 0 <= samples["tidegate_cluster_placement_age_seconds", ()] < START_S
    shown = {name for name in set().union(*map(names_in, dashboard_expressions())) if name.startswith("tidegate_cluster_")}
    assert shown, DASHBOARD
    assert shown <= {name for name, _ in samples}
    first.service.kill_everything()
    lost = ("tidegate_cluster_hosts", (("state", "lost"),))
    second.wait_for(
        lambda samples: (samples.get(lost), samples.get(owned)) == (1, 8), "the loss of the other, whose shards it takes"
    )
    replayed = ("tidegate_cluster_replayed_bytes_total", (("process", "worker 0"),))
    second.wait_for(lambda samples: samples.get(replayed, 0) > 0, "what it lacked of these to be told")
