"""The types of the library in client.py, for mypy and for editors."""
import enum
import ssl
from typing import Any, Dict, List, Optional, TypedDict, type_check_only

from typing_extensions import Self

__all__ = ["Client", "LavkaError", "RpcError", "ServerGone", "ClientClosed", "new_key"]

@type_check_only
class Account(TypedDict):
    nickname: str
    credits: int
    items: List[str]

@type_check_only
class Item(TypedDict):
    name: str
    price: int

@type_check_only
class LoginResult(TypedDict):
    account: Account
    created: bool
    catalog: List[Item]

class Client:
    address: str
    server: str
    timeout: float
    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 7777,
        timeout: float = 5,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def login(self, nickname: str, key: Optional[str] = None) -> LoginResult: ...
    def ping(self) -> str: ...
    def buy(self, item: str) -> Account: ...
    def sell(self, item: str) -> Account: ...
    def logout(self) -> bool: ...
    def protect(self, key: str) -> bool: ...
    def close(self) -> None: ...

class LavkaError(Exception):
    code: Optional[int]
    reason: Optional[str]
    message: str

class RpcError(LavkaError):
    code: int
    data: Dict[str, Any]
    def __init__(self, code: int, message: str, data: Dict[str, Any]) -> None: ...

class ServerGone(LavkaError):
    reason: str
    def __init__(self, reason: str, message: str) -> None: ...

class ClientClosed(LavkaError):
    reason: str

class State(enum.Enum):
    LOGIN = "a nickname"
    GAME_SESSION = "an option"

def new_key() -> str: ...
