// Node's `net` server that answers ping, to compare the loops.
const net = require('net');

const [host, port] = process.argv.slice(2);

function answer(line) {
  let request;
  try {
    request = JSON.parse(line);
  } catch (error) {
    return { jsonrpc: '2.0', error: { code: -32700, message: 'no JSON' }, id: null };
  }
  if (request.jsonrpc !== '2.0' || request.method !== 'ping') {
    return { jsonrpc: '2.0', error: { code: -32601, message: 'method_not_found' }, id: request.id };
  }
  return { jsonrpc: '2.0', result: 'pong', id: request.id };
}

const server = net.createServer({ noDelay: true }, (socket) => {
  let tail = '';
  socket.setEncoding('utf8');
  socket.on('data', (data) => {
    const lines = (tail + data).split('\n');
    tail = lines.pop();
    if (lines.length) {
      socket.write(lines.map((line) => JSON.stringify(answer(line)) + '\n').join(''));
    }
  });
  socket.on('error', () => socket.destroy());
});
server.listen({ port: Number(port), host, backlog: 1024 });
