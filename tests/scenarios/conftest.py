from tests.shard.conftest import pytest_pyfunc_call as pytest_pyfunc_call
