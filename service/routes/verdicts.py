"""Verdicts on reports that are stored or posted; no audit is run for them."""

from fastapi import Request, Response

from schemas.errors import BadBody, Conflict, InvalidRequest, TooLarge, UnsupportedMedia
from schemas.verdict import Verdict
from schemas.verdict_request import VerdictRequest
from service.answers import answer_model
from service.bodies import read_document
from service.identity import Owner
from service.judgement import judge_posted
from service.openapi import examples
from service.openapi.declare import answers, refuses, takes
from service.resources import Held
from service.routes.router import make_router

router = make_router("verdicts")


@router.post(
    "/v1/verdicts",
    openapi_extra=takes(VerdictRequest, examples.VERDICT_REQUEST),
    responses=answers(200, "The verdict.", Verdict, examples.VERDICT)
    | refuses(BadBody, Conflict, InvalidRequest, TooLarge, UnsupportedMedia),
)
async def post_verdict(request: Request, owner: Owner, held: Held) -> Response:
    """Judge a report, posted or named by its audit, by a policy; `baseline` is a report or an audit id."""
    document = await read_document(request, held.settings.max_verdict_bytes)
    return answer_model(await judge_posted(held.queue, held.artifacts, owner, document))
