"""`python -m service.openapi > docs/openapi.json` writes the OpenAPI document."""

import sys

from service.app import find_routes
from service.openapi.document import build_document, format_document

sys.stdout.write(format_document(build_document(find_routes())))
