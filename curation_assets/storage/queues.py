"""Queues: receive and delete messages of an SQS queue, or of a server that speaks its protocol. Credentials come from the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore import exceptions
from botocore.config import Config

from curation_assets.storage.errors import Forbidden, NotFound, StoreError, Unavailable

MESSAGES_PER_CALL = 10
"""As many as SQS gives or takes at once."""

_REGION = re.compile(r"//sqs\.([a-z0-9-]+)\.|//([a-z]{2}-[a-z0-9-]+)\.queue\.")
_MISSING = {"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "InvalidAddress"}
_DENIED = (
    "AccessDenied",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "UnrecognizedClient",
    "MissingAuth",
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a receive gives it.

    Attributes:
        message_id: the same at every delivery.
        receipt: names this delivery, to delete the message by.
        body: text.
    """

    message_id: str
    receipt: str
    body: str


class Queue:
    """One queue.

    Args:
        url: of the queue.
        region: None takes it from the URL, or else from the environment.
        endpoint_url: of a server other than Amazon's; None takes AWS_ENDPOINT_URL_SQS or AWS_ENDPOINT_URL where they are set.
    """

    def __init__(self, url: str, *, region: str | None = None, endpoint_url: str | None = None) -> None:
        import boto3

        found = _REGION.search(url)
        config = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})  # type: ignore[no-untyped-call]
        self.url = url
        with self._errors():
            self._client: Any = boto3.session.Session().client(  # type: ignore[no-untyped-call]
                "sqs",
                region_name=region or (found and (found[1] or found[2])) or None,
                endpoint_url=endpoint_url,
                config=config,
            )

    def receive(self, *, visibility_s: int) -> list[Message]:
        """Receive up to ten messages; none when the queue is empty.

        Args:
            visibility_s: until then no other receive gives them.

        Raises:
            NotFound: there is no such queue.
            Forbidden: the credentials do not allow it, or there are none.
            Unavailable: the queue cannot be reached or throttles.
        """
        with self._errors():
            answer = self._client.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=MESSAGES_PER_CALL, WaitTimeSeconds=0, VisibilityTimeout=visibility_s
            )
        return [Message(item["MessageId"], item["ReceiptHandle"], item["Body"]) for item in answer.get("Messages", ())]

    def delete(self, messages: Sequence[tuple[str, str]]) -> None:
        """Delete messages by (id, receipt); one that is gone, or whose receipt has expired, is fine.

        Raises:
            Forbidden, NotFound, Unavailable: as `receive`.
        """
        for start in range(0, len(messages), MESSAGES_PER_CALL):
            entries = [
                {"Id": str(index), "ReceiptHandle": receipt}
                for index, (_, receipt) in enumerate(messages[start : start + MESSAGES_PER_CALL])
            ]
            with self._errors():
                answer = self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)
            broken = [item for item in answer.get("Failed", ()) if not item.get("SenderFault")]
            if broken:
                raise Unavailable(
                    f"{self.url}: {len(broken)} messages could not be deleted: {broken[0].get('Message') or broken[0]['Code']}"
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _MISSING:
                raise NotFound(f"{self.url}: there is no such queue. Check the URL, the region and the account") from error
            if code.startswith(_DENIED) or status in (401, 403):
                raise Forbidden(
                    f"{self.url}: access denied ({error}). The credentials in the environment need sqs:ReceiveMessage and sqs:DeleteMessage"
                ) from error
            if status >= 500 or "Throttl" in code:
                raise Unavailable(f"{self.url}: fails or throttles: {error}. The next tick tries again") from error
            raise StoreError(f"{self.url}: {error}") from error
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise Forbidden(f"{self.url}: no AWS credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE") from error
        except exceptions.NoRegionError as error:
            raise StoreError(f"{self.url}: its region is not known. Set `region` of the queue in the settings, or AWS_REGION") from error
        except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
            raise Unavailable(
                f"{self.url}: cannot be reached: {error}. Check the endpoint and the network; the next tick tries again"
            ) from error
        except (exceptions.BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise StoreError(f"{self.url}: {error}") from error
