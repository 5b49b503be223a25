// A client of Lavka for Node.js, and a bot that buys the dearest item that it can afford:
//
//     node lavka.js HOST PORT NICKNAME
"use strict";

const net = require("net");

// A call has failed. `reason` is stable; `data` has the figures of a refusal.
class LavkaError extends Error {
  constructor(reason, message, data) {
    super(message);
    Object.assign(this, { reason, data });
  }
}

// A connection. `timeout` is in milliseconds, for connecting and for each answer.
class Client {
  constructor(host, port, timeout = 5000) {
    this.calls = new Map(); // by id: the calls without an answer
    this.lastId = 0;
    this.socket = net.connect({ host, port, timeout }).setNoDelay().setEncoding("ascii");
    let rest = "";
    let lost = new LavkaError("unreachable", `There is no server at ${host}:${port}.`);
    this.socket
      .on("connect", () => (lost = new LavkaError(
        "gone", "The connection is lost. What was asked last may or may not have happened.")))
      .on("data", (data) => {
        const lines = (rest + data).split("\n");
        rest = lines.pop();
        try {
          lines.forEach((line) => this.receive(JSON.parse(line)));
        } catch {
          this.socket.destroy(); // this is no Lavka server
        }
      })
      .on("timeout", () => (this.calls.size || !this.socket.writable) && this.socket.destroy())
      .on("error", () => {}) // "close" follows
      .on("close", () => this.failAll(lost));
  }

  // Resolves to the result of a method. Calls may overlap: they are carried out in order.
  call(method, params = {}) {
    return new Promise((resolve, reject) => {
      if (!this.socket.writable) return reject(new LavkaError("closed", "This client is closed."));
      const id = ++this.lastId;
      this.calls.set(id, { resolve, reject });
      return this.socket.write(JSON.stringify({ jsonrpc: "2.0", id, method, params }) + "\n");
    });
  }

  receive({ id, result, error }) {
    const refusal = error && new LavkaError(error.data.reason, error.message, error.data);
    if (id === null) return this.failAll(refusal); // server_full: the connection ends
    const { resolve, reject } = this.calls.get(id);
    this.calls.delete(id);
    return refusal ? reject(refusal) : resolve(result);
  }

  failAll(error) {
    this.calls.forEach(({ reject }) => reject(error));
    this.calls.clear();
  }

  close() {
    this.socket.end();
  }
}

async function buyDearest(shop, nickname) {
  const { account, catalog } = await shop.call("login", { nickname });
  const affordable = catalog
    .filter(({ name, price }) => price <= account.credits && !account.items.includes(name))
    .sort((one, other) => other.price - one.price);
  if (!affordable.length) return "there is nothing to buy";
  const { name } = affordable[0];
  const { account: { credits } } = await shop.call("buy", { item: name });
  return `bought ${name}, ${credits} credits are left`;
}

async function main(host, port, nickname) {
  const shop = new Client(host, port);
  try {
    console.log(await buyDearest(shop, nickname));
  } finally {
    shop.close();
  }
}

module.exports = { Client, LavkaError };

if (require.main === module) {
  main(...process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
