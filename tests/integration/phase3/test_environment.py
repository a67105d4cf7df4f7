"""What the suite itself runs on (contract section 10), where it starts the service: nothing that anybody else uses."""

from __future__ import annotations

import os

import httpx
import pytest
import redis
from sqlalchemy import text
from sqlalchemy.orm import Session

from labyard.testing.waiting import wait_until

from .conftest import URL

pytestmark = [
    pytest.mark.phase3_integration,
    pytest.mark.skipif(URL in os.environ, reason=f"{URL}: a service that runs already stands on what its owner chose"),
]


def test_database_and_index(node_client: httpx.Client, test_db: Session, test_redis: redis.Redis) -> None:

    def is_counted() -> bool:
        """Against the rate limit, in Redis; where that is slow to answer, the service counts by itself."""
        assert node_client.get("/nodes").status_code == 200
        return bool(test_redis.keys("*"))

    wait_until(is_counted, "a request is counted in Redis")
    assert test_db.scalar(text("SELECT current_database()")) == "labyard_desktops_test"
    assert test_db.scalar(text("SELECT count(*) FROM pools"))  # the service's tables
    assert test_redis.info("keyspace").keys() == {"db1"}  # no other index has a key
