// Microsoft's JavaScript clients against the simulated Graph, as clients.py does with Python's:
// clients.mjs CREDENTIAL ORIGIN CONTROL MAILBOX TENANT PEM. CREDENTIAL is secret or certificate;
// ORIGIN is the TLS proxy. Tokens come from msal-node, requests from the Graph client.
import { X509Certificate, createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [credential, origin, control, mailbox, tenant, pem] = process.argv.slice(2);
// The packages are in the working directory.
const require = createRequire(join(process.cwd(), "x.js"));
const { ConfidentialClientApplication } = require("@azure/msal-node");
const { Client } = require("@microsoft/microsoft-graph-client");

const day = 86_400_000;
const today = Math.floor(Date.now() / day) * day;
const start = new Date(today - 30 * day).toISOString();
const end = new Date(today + 60 * day).toISOString();

const ask = async (path, body) => {
    const options = body && { method: "POST", body: JSON.stringify(body) };
    const answer = await fetch(`${control}/control/${path}`, options);
    if (!answer.ok) throw new Error(`control: ${answer.status}`);
    return answer.json();
};
const truth = async () => {
    const query = new URLSearchParams({ mailbox, start, end });
    return (await ask(`truth?${query}`)).value;
};
const compare = async (what, ids) => {
    const there = (await truth()).map((event) => event.id);
    if (there.length !== ids.size || !there.every((id) => ids.has(id))) {
        throw new Error(`${what}: ${ids.size} events, of ${there.length} that there are`);
    }
};

const auth = { clientId: "11111111-1111-1111-1111-111111111111", authority: `${origin}/${tenant}` };
auth.knownAuthorities = [new URL(origin).host];
if (credential === "secret") {
    auth.clientSecret = "secret";
} else {
    const text = readFileSync(pem, "utf8");
    const certificate = new X509Certificate(text);
    const thumbprintSha256 = createHash("sha256").update(certificate.raw).digest("hex");
    auth.clientCertificate = { thumbprintSha256, privateKey: text.split("-----BEGIN CERTIFICATE")[0] };
}
const application = new ConfidentialClientApplication({ auth });
const client = Client.init({
    baseUrl: origin,
    customHosts: new Set([new URL(origin).hostname]),
    authProvider: async (done) => {
        try {
            const scopes = ["https://graph.microsoft.com/.default"];
            done(null, (await application.acquireTokenByClientCredential({ scopes })).accessToken);
        } catch (error) {
            done(error, null);
        }
    },
});

const events = new Set();
const round = async (link) => {
    for (;;) {
        const page = await client.api(link).header("Prefer", "odata.maxpagesize=50").get();
        for (const item of page.value) {
            if (item["@removed"]) events.delete(item.id);
            else if (item.type !== "seriesMaster") events.add(item.id);
        }
        link = page["@odata.nextLink"] ?? page["@odata.deltaLink"];
        if (!link.startsWith(`${origin}/v1.0/`)) throw new Error("a link leads elsewhere");
        if (page["@odata.deltaLink"]) return link;
    }
};

const query = new URLSearchParams({ startDateTime: start, endDateTime: end });
const link = await round(`/users/${mailbox}/calendarView/delta?${query}`);
await compare("enumeration", events);
const first = events.size;
const singles = (await truth()).filter((event) => event.type === "singleInstance");
const soon = new Date(today + 3 * day).toISOString();
for (const subject of ["New", "Newer"]) {
    await ask("mutate", { mailbox, edit: "create_single", subject, start: soon, minutes: 30 });
}
await ask("mutate", { mailbox, edit: "delete", event: singles[0].id });
await ask("mutate", { mailbox, edit: "rename", event: singles[1].id, subject: "Renamed" });
await round(link);
await compare("incremental round", events);
console.log(`${first} events, then ${events.size}`);
