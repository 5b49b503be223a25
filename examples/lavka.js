// A client of Lavka for Node.js, and a bot that buys the dearest item that it can afford:
//
//     node lavka.js HOST PORT NICKNAME
"use strict";

const net = require("net");
const readline = require("readline");

// An error whose `reason` is stable; `data` has the figures of a refusal.
const failure = (reason, message, data) => Object.assign(new Error(message), { reason, data });

// A connection. It ends after `timeout` ms without a byte, while it connects or a call waits.
class Client {
  constructor(host, port, timeout = 5000) {
    this.calls = new Map(); // by id: the calls without an answer
    this.lastId = 0;
    this.closed = failure("closed", "This client is closed."); // for calls after the end
    let lost = failure("unreachable", `There is no server at ${host}:${port}.`);
    this.socket = net.connect({ host, port, timeout })
      .on("connect", () => (lost = failure(
        "gone", "The connection is lost. What was asked last may or may not have happened.")))
      .on("timeout", () => (this.calls.size || !this.socket.writable) && this.socket.destroy())
      .on("error", () => {}) // "close" follows
      .on("close", () => this.failAll(lost));
    readline.createInterface({ input: this.socket })
      .on("error", () => {})
      .on("line", (line) => this.receive(line));
  }

  // Resolves to the result of a method. Calls may overlap: they are carried out in order.
  call(method, params = {}) {
    return new Promise((resolve, reject) => {
      if (!this.socket.writable) return reject(this.closed);
      const request = { jsonrpc: "2.0", id: ++this.lastId, method, params };
      this.calls.set(request.id, { resolve, reject });
      return this.socket.write(JSON.stringify(request) + "\n");
    });
  }

  receive(line) {
    try {
      const { id, result, error } = JSON.parse(line);
      const refusal = error && failure(error.data.reason, error.message, error.data);
      if (id === null) return this.failAll((this.closed = refusal)); // server_full: the last reply
      const { resolve, reject } = this.calls.get(id);
      this.calls.delete(id);
      return refusal ? reject(refusal) : resolve(result);
    } catch {
      return this.socket.destroy(); // this is no Lavka server
    }
  }

  failAll(error) {
    this.calls.forEach(({ reject }) => reject(error));
    this.calls.clear();
  }

  close() {
    this.socket.end();
  }
}

async function main(host, port, nickname) {
  const shop = new Client(host, port);
  try {
    const { account, catalog } = await shop.call("login", { nickname });
    const [item] = catalog
      .filter(({ name, price }) => price <= account.credits && !account.items.includes(name))
      .sort((one, other) => other.price - one.price);
    if (!item) return console.log("there is nothing to buy");
    const { account: { credits } } = await shop.call("buy", { item: item.name });
    return console.log(`bought ${item.name}, ${credits} credits are left`);
  } finally {
    shop.close();
  }
}

module.exports = { Client };

if (require.main === module) {
  main(...process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
