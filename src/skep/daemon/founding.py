"""A new swarm's state made beside its place: its authority, the first manager's certificate and the first objects.

Edge: files, the store. Cut off anywhere, this machine is still in no swarm.
"""

from skep.agent.identity import accept_issued, new_key_request
from skep.api.backend import InitRequest
from skep.core import identity as certificates
from skep.daemon import advertise
from skep.daemon.config import CONTROL_PORT, split_address
from skep.daemon.joining import availability_of
from skep.daemon.manager import Means, make_state, open_seal
from skep.daemon.membership import Membership
from skep.daemon.restore import Place
from skep.lib.ids import new_id
from skep.manager.ca import CertificateAuthority
from skep.manager.control.cluster import UNLOCK_PURPOSE, Founding, first_objects, is_locking
from skep.model.cluster import JoinTokens
from skep.model.identity import Credentials, Identity, new_token, new_unlock_key
from skep.model.node import Role
from skep.model.session import ManagerAddress


def founding_member(request: InitRequest, means: Means) -> Membership:
    """The first manager's place in a new swarm.

    Raises:
        InvalidSpec: An address is not possible.
    """
    listen_addr = advertise.listening(request.listen_addr)
    host, port = advertise.reachable(request.advertise_addr, split_address(listen_addr, CONTROL_PORT)[1])
    node_id = new_id(means.dice.bytes)
    return Membership(
        cluster_id=new_id(means.dice.bytes),
        node_id=node_id,
        role=Role.MANAGER,
        underlay=advertise.underlay(request.data_path_addr, host),
        control_addr=f"{host}:{port}",
        listen_addr=listen_addr,
        data_path_port=request.data_path_port or 4789,
        managers=[ManagerAddress(node_id=node_id, addr=f"{host}:{port}")],
    )


async def found(place: Place, request: InitRequest, member: Membership) -> Credentials:
    """Fill the staging directory of the first manager; returns its certificate and key.

    Raises:
        InvalidSpec: A setting is not possible.
    """
    staging, clock = place.staging, place.means.clock
    authority = CertificateAuthority.create(clock.now())
    key_request = new_key_request()
    holder = Identity(node_id=member.node_id, role=Role.MANAGER, cluster_id=member.cluster_id)
    lifetime = request.spec.ca_config.node_cert_expiry
    address = split_address(member.control_addr, CONTROL_PORT)[0]
    issued = authority.issue(key_request.csr, holder, now=clock.now(), lifetime=lifetime, address=address)
    seal = open_seal(staging)
    unlock_key = new_unlock_key(place.means.dice.bytes) if is_locking(request.spec) else ""
    founding = Founding(
        cluster_id=member.cluster_id,
        authority=authority.sealed(seal),
        unlock_key=seal.seal(unlock_key.encode(), UNLOCK_PURPOSE) if unlock_key else None,
        node_id=member.node_id,
        hostname=place.hostname,
        underlay=member.underlay,
        control_addr=member.control_addr,
        certificate_serial=certificates.identity_of_pem(issued.certificate).serial,
        spec=request.spec,
        availability=availability_of(request.availability),
        address_pools=tuple(request.default_addr_pool),
        subnet_size=request.subnet_size,
        data_path_port=request.data_path_port,
        min_certificate_life=place.means.min_certificate_life,
    )
    tokens = JoinTokens(
        worker=str(new_token(authority.root_pem, place.means.dice.bytes)),
        manager=str(new_token(authority.root_pem, place.means.dice.bytes)),
    )
    changes = first_objects(founding, tokens, new_id(place.means.dice.bytes))
    await make_state(staging, clock, changes)
    return accept_issued(key_request, issued)
