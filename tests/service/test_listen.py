"""Where a service may listen without asking for access keys."""

from __future__ import annotations

from tests.support.service import Serve
from tidegate.runtime.addresses import free_port
from tidegate.runtime.cli.cli import main


def test_a_service_without_keys_listens_beyond_its_machine_only_if_it_is_told_to(serve: Serve) -> None:
    service = serve(start=False)
    service.endpoint = f"tcp://0.0.0.0:{free_port()}"
    service.launch(1)
    assert service.wait() == 1
    assert "there are no access keys (make one: tidegate keys new NAME; or" in service.output
    service.expect(r"clients need no access key \(insecure\)")
    service.start(1, "--insecure")
    assert service.output.count("clients need no access key (insecure)") == 1
    service.stop()
    assert main(["keys", "new", "web", "--data", str(service.data), "--out", "-"]) == 0
    service.start(1)
    assert "access: clients need a key; 1 are valid" in service.output
