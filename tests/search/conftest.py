"""What several tests of searches share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.search.browser import browser, page
from tests.search.postgres import Postgres
from tests.search.s3 import S3

__all__ = ["browser", "page"]  # fixtures


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of its own for each process of pytest; a test takes a database of its own: `postgres.url(NAME)`."""
    with tempfile.TemporaryDirectory(prefix="archsearch-") as folder:  # pytest closes its own to the server's user
        server = Postgres(Path(folder) / "data")
        yield server
        server.stop()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """A server that this process, and those it starts meanwhile, take for Amazon's; with one empty bucket."""
    server = S3()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-s3")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # what is away is away; botocore would try for seconds
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        server.begin()
        yield server
    server.stop()
