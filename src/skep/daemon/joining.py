"""A machine's way into a swarm that exists: the token, a manager that takes it, the first certificate.

Edge: the control port of the swarm's managers. Nothing is kept here.
"""

from skep.agent.identity import accept_issued, new_key_request
from skep.api.backend import JoinRequest
from skep.core import identity as certificates
from skep.daemon import advertise
from skep.daemon.config import CONTROL_PORT, split_address
from skep.daemon.membership import Membership
from skep.edge.control_client import HttpControlPort
from skep.model.errors import InvalidSpec, Unavailable
from skep.model.identity import Credentials, JoinToken
from skep.model.identity import JoinRequest as CertificateRequest
from skep.model.node import Availability, Role
from skep.model.session import ManagerAddress
from skep.ports.transport import Declined, TransportError


async def join(request: JoinRequest, *, has_etcd: bool) -> tuple[Membership, Credentials]:
    """Be admitted as what the token says.

    Args:
        has_etcd: This machine can be one of several managers.
    Raises:
        InvalidSpec: Token or address is wrong. Unavailable: No manager takes it, with the reason of each.
    """
    token = JoinToken.parse(request.join_token)
    if not request.remote_addrs:
        raise InvalidSpec("at least 1 RemoteAddr is required to join")
    host, port = advertise.reachable(request.advertise_addr, CONTROL_PORT)
    underlay, listen_addr = advertise.underlay(request.data_path_addr, host), advertise.listening(request.listen_addr)
    credentials, address = await _ask_certificate(request, token, has_etcd=has_etcd)
    identity = certificates.identity_of_pem(credentials.certificate)
    member = Membership(
        cluster_id=identity.cluster_id,
        node_id=identity.node_id,
        role=identity.role,
        underlay=underlay,
        control_addr=f"{host}:{port}",
        listen_addr=listen_addr,
        is_entering=identity.role == Role.MANAGER,
        managers=[ManagerAddress(node_id="", addr=address)],
    )
    return member, credentials


async def _ask_certificate(request: JoinRequest, token: JoinToken, *, has_etcd: bool) -> tuple[Credentials, str]:
    port = HttpControlPort()
    failures: list[str] = []
    for text in request.remote_addrs:
        host, number = split_address(text, CONTROL_PORT)
        address = f"{host}:{number}"
        try:
            root_pem = await port.root(address)
            token.check_root(root_pem)
            key_request = new_key_request()
            asked = CertificateRequest(
                token=str(token),
                csr=key_request.csr,
                availability=availability_of(request.availability),
                has_etcd=has_etcd,
            )
            issued = await port.join(address, root_pem, asked)
        except Declined as refusal:
            if refusal.is_final:
                raise InvalidSpec(str(refusal)) from refusal
            failures.append(str(refusal))
        except TransportError as error:
            failures.append(str(error))
        else:
            return accept_issued(key_request, issued), address
    raise Unavailable("; ".join(failures))


def availability_of(text: str) -> Availability:
    """Read an availability; "" is active. Raises: InvalidSpec: it is none."""
    try:
        return Availability(text or "active")
    except ValueError as error:
        raise InvalidSpec(f'invalid Availability: "{text}"; choose active, pause or drain') from error
