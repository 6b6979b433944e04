"""Reads problems and checks what every one of them must have."""

import httpx2

from schemas.problem import Problem


def read_problem(response: httpx2.Response, status: int) -> Problem:
    """Return the problem in `response`, which must have `status`, all parts of each fault and no traceback."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert "Traceback" not in response.text
    problem = Problem.model_validate_json(response.content)
    assert problem.status == status
    assert problem.type == f"urn:faultline:problem:{problem.code}"
    assert problem.errors
    for item in problem.errors:
        assert item.what
        assert item.expected
        assert item.got
        assert item.advice
    return problem
