# -*- coding: utf-8 -*-
"""A peer on Twisted's LineOnlyReceiver."""
from twisted.internet import endpoints, protocol, reactor
from twisted.protocols.basic import LineOnlyReceiver

from shop import LISTEN_QUEUE, HOST, PORT, Session


class Lines(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 65536

    def connectionMade(self):
        self.transport.setTcpNoDelay(True)
        self.session = Session()

    def lineReceived(self, line):
        self.transport.write(self.session.answer(line))

    def connectionLost(self, reason):
        self.session.close()


endpoint = endpoints.TCP4ServerEndpoint(reactor, PORT, backlog=LISTEN_QUEUE, interface=HOST)
endpoint.listen(protocol.Factory.forProtocol(Lines))
reactor.run()
