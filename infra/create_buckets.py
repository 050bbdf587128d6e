"""Make the store's buckets, unless they are there: `python create_buckets.py ENDPOINT BUCKET…`.

Runs once before the services that write to them; credentials come from the environment (boto3's chain).
"""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


def create_buckets(endpoint_url: str, buckets: list[str]) -> None:
    """Idempotent. Raises ClientError where the store refuses the credentials."""
    # A store that has just come up may still refuse connections or answer 503.
    patient = Config(retries={"mode": "standard", "max_attempts": 10}, connect_timeout=5, read_timeout=20)
    client = boto3.client("s3", endpoint_url=endpoint_url, config=patient)
    for bucket in buckets:
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            client.create_bucket(Bucket=bucket)


if __name__ == "__main__":
    create_buckets(sys.argv[1], sys.argv[2:])
