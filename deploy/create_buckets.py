"""Create the buckets that are named as arguments, on the S3 server of `AWS_ENDPOINT_URL`; those that are there stay as they are.

The server is waited for, and has to be one whose create-only writes are exclusive: leases and table commits rest on them.
"""

import os
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.exceptions import BotoCoreError, ClientError

PATIENCE_S = float(os.environ.get("PATIENCE_S", "120"))
WRITERS = 8
PRESENT = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict")


def create(client, bucket: str) -> None:
    """Create one bucket, unless it is there."""
    try:
        client.create_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in PRESENT:
            raise


def check_exclusive(client, bucket: str) -> None:
    """Let several writers create one object at once.

    Raises:
        SystemExit: more than one of them, or none, was told that it did.
    """
    key = f".create-only-{uuid.uuid4()}"

    def write(number: int) -> bool:
        try:
            client.put_object(Bucket=bucket, Key=key, Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] not in REFUSED:
                raise
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as threads:
        winners = sum(threads.map(write, range(WRITERS)))
    client.delete_object(Bucket=bucket, Key=key)
    if winners != 1:
        sys.exit(
            f"{winners} of {WRITERS} create-only writes of one object succeeded, it must be one: this S3 server cannot hold a warehouse"
        )


def main(buckets: list[str]) -> None:
    """Create the buckets, trying again while the server cannot be reached."""
    if not buckets:
        sys.exit("name the buckets: create_buckets.py BUCKET...")
    client = boto3.client("s3")
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            for bucket in buckets:
                create(client, bucket)
            check_exclusive(client, buckets[0])
            break
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > end:
                sys.exit(f"buckets {', '.join(buckets)} could not be created: {error}")
            time.sleep(2)
    print(f"ready: {', '.join(buckets)}")


if __name__ == "__main__":
    main(sys.argv[1:])
