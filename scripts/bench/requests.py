"""Write distinct, genuine WhatsApp webhooks for wrk, one `signature<TAB>body` a line.

requests.py COUNT SECRET > requests.tsv
"""

import sys
import time

from sentinel.channels import find_channel
from sentinel.model import Source

QUESTION = "does it come in another color how long is delivery to lisbon please send the invoice again thanks"


def main() -> None:
    """Write to standard output."""
    count, secret = int(sys.argv[1]), sys.argv[2]
    channel = find_channel("whatsapp")
    source = Source("default", "whatsapp", "bench", {"app_secret": secret, "phone_number_id": "106540352242922"})
    for number in range(count):
        text = QUESTION[: 20 + number % len(QUESTION)]
        request = channel.sample(source, text, number, time.time())
        print(request.headers["x-hub-signature-256"], request.body.decode(), sep="\t")


main()
