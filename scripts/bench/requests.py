"""Write distinct, genuine WhatsApp webhooks for wrk, one `signature<TAB>body` a line.

requests.py COUNT SECRET [PEOPLE] > requests.tsv

Each is from another person, or from one of so many people, drawn by chance.
"""

import random
import sys
import time

from sentinel.channels import find_channel
from sentinel.channels.shared.signing import hmac_hex
from sentinel.model import Source

QUESTION = "does it come in another color how long is delivery to lisbon please send the invoice again thanks"
PERSON_FIRST = 15_550_000_000  # as in the channel's samples


def main() -> None:
    """Write to standard output."""
    count, secret, people = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if sys.argv[3:] else None
    channel = find_channel("whatsapp")
    source = Source("default", "whatsapp", "bench", {"app_secret": secret, "phone_number_id": "106540352242922"})
    chance = random.Random(20)
    for number in range(count):
        text = QUESTION[: 20 + number % len(QUESTION)]
        body = channel.sample(source, text, number, time.time()).body
        if people is not None:
            person = PERSON_FIRST + chance.randrange(people)
            body = body.replace(str(PERSON_FIRST + number).encode(), str(person).encode())
        print(f"sha256={hmac_hex(secret.encode(), body)}", body.decode(), sep="\t")


main()
