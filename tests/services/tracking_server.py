"""`mlflow server` with a database and a store for artifacts, and its REST API."""

import secrets
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from tests.services.processes import ADDRESS, ServerProcess, free_port

ADMINISTRATOR = "admin"

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Half of the time that the server needs to start.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}

_AUTHENTICATION = """[mlflow]
default_permission = READ
database_uri = sqlite:///{database}
admin_username = {user}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 600
"""


class TrackingServer:
    """An MLflow server on loopback, ended when the context ends.

    Args:
        folder: For artifacts and the log.
        database: Address of the database; it may hold a password.
        authenticated: Whether it asks for a name and a password (`--app-name basic-auth`).
    """

    def __init__(self, folder: Path, *, database: str, authenticated: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://{ADDRESS}:{self.port}"
        self.password = secrets.token_urlsafe() if authenticated else None
        # Not among the arguments, which every user of the machine can read.
        environment = {**_ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": database}
        command = [sys.executable, "-m", "mlflow", "server", "--host", ADDRESS, "--port",
                   str(self.port), "--workers", "1", "--serve-artifacts",
                   "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
        if self.password is not None:
            settings = folder / "basic_auth.ini"
            settings.write_text(
                _AUTHENTICATION.format(database=folder / "users.db", user=ADMINISTRATOR)
            )
            command += ["--app-name", "basic-auth"]
            environment |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(settings),
                "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(),
            }
        self._server = ServerProcess(
            command, log=folder / "log.txt", is_ready=self._is_ready, environment=environment
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.end(signal.SIGKILL)

    def start(self) -> None:
        """Start it, on the same port as before."""
        self._server.start()

    def kill(self) -> None:
        """End it at once, requests that it is answering included."""
        self._server.end(signal.SIGKILL)

    @property
    def credentials(self) -> dict[str, str]:
        """MLflow's variables for a client of this server; none where it asks for no password."""
        if self.password is None:
            return {}
        return {
            "MLFLOW_TRACKING_USERNAME": ADMINISTRATOR,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }

    def get(self, path: str, /, **query: Any) -> Any:
        """Return what the REST API answers to `GET /api/2.0/mlflow/<path>`."""
        return self._ask("GET", path, params=query)

    def post(self, path: str, /, **content: Any) -> Any:
        """Return what the REST API answers to `POST /api/2.0/mlflow/<path>`."""
        return self._ask("POST", path, json=content)

    def patch(self, path: str, /, **content: Any) -> Any:
        """Return what the REST API answers to `PATCH /api/2.0/mlflow/<path>`."""
        return self._ask("PATCH", path, json=content)

    def artifact(self, run_id: str, path: str) -> bytes:
        """Return an artifact of a run, as the page's download button does."""
        answer = requests.get(
            f"{self.url}/get-artifact",
            params={"run_id": run_id, "path": path},
            auth=self._login(),
            timeout=60,
        )
        answer.raise_for_status()
        return answer.content

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        answer = requests.request(
            method,
            f"{self.url}/api/2.0/mlflow/{path}",
            auth=self._login(),
            timeout=60,
            **options,
        )
        if not answer.ok:
            raise requests.HTTPError(f"{path}: {answer.status_code} {answer.text}")
        return answer.json()

    def _login(self) -> tuple[str, str] | None:
        return None if self.password is None else (ADMINISTRATOR, self.password)

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except requests.RequestException:
            return False
