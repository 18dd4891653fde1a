"""An S3 server of moto's on a free port of this machine."""

import logging

import boto3
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from tests.search.postgres import free_port

BUCKET = "bucket"


class S3:
    """A server that can be stopped and started again; what it holds stays."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._port = free_port()
        self.start()
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()

    def begin(self) -> None:
        S3FileSystem.clear_instance_cache()  # those know the address of an earlier server
        boto3.client("s3").create_bucket(Bucket=BUCKET)

    def stop(self) -> None:
        self._server.stop()

    def keys(self, prefix: str) -> list[str]:
        """What is in the bucket under a prefix."""
        found = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [entry["Key"] for entry in found]

    def put(self, key: str, content: bytes) -> None:
        boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        content: bytes = boto3.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def delete(self, key: str) -> None:
        boto3.client("s3").delete_object(Bucket=BUCKET, Key=key)
