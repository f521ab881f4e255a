import { apiList } from "../../api/client";
import { count, time } from "../../i18n";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { type Column, Table } from "../../ui/Table";
import { useLoad } from "../../ui/load";
import { Figure } from "./Health";
import { say } from "./say";
import type { ListedKey, Stats } from "./types";

const MOST = 500;
const LIVE_MS = 15_000;
const SOON_S = 7 * 86_400;

/** The keys of the server, without their secrets, and what each may ask for in a minute. */
export function Keys({ limits }: { limits: Stats["limits"] | undefined }) {
  const load = async (signal: AbortSignal) => {
    const found: ListedKey[] = [];
    for await (const key of apiList<ListedKey>("/v1/keys", MOST, { query: { order: "desc" }, signal })) found.push(key);
    return found;
  };
  const { data, error, reload } = useLoad(load, [], LIVE_MS);
  return (
    <>
      {limits && (
        <div class="cards usage-cards">
          <Figure
            name={say("limits.requests")}
            value={limits.requests_per_minute > 0 ? count(limits.requests_per_minute) : say("limits.none")}
            more={say("limits.tenant")}
          />
          <Figure
            name={say("limits.tokens")}
            value={limits.tokens_per_minute > 0 ? count(limits.tokens_per_minute) : say("limits.none")}
            more={say("limits.tenant")}
          />
        </div>
      )}
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data?.length === 0 && (
        <Empty
          icon="key"
          title={say("keys.empty")}
          text={say("keys.empty.text")}
          commands={["deepwell keys create laptop --tenant acme --expires 90d"]}
        />
      )}
      {data && data.length > 0 && (
        <>
          <Table label={say("tab.keys")} columns={columns(Date.now() / 1000)} rows={data} id={(key) => key.id} />
          <p class="muted small">{data.length >= MOST ? say("keys.more", { count: count(MOST) }) : say("keys.how")}</p>
        </>
      )}
    </>
  );
}

function columns(now: number): Column<ListedKey>[] {
  return [
    {
      name: "key",
      title: say("column.key"),
      cell: (key) => (
        <span class="usage-key">
          <span>{key.name || key.id}</span>
          {key.name && <code class="muted">{key.id}</code>}
        </span>
      ),
    },
    { name: "tenant", title: say("column.tenant"), cell: (key) => <span class="usage-name">{key.tenant}</span> },
    { name: "state", title: say("column.state"), cell: (key) => <State keyOf={key} now={now} /> },
    { name: "scopes", title: say("column.scopes"), cell: (key) => key.scopes.join(", "), wide: true },
    {
      name: "limits",
      title: say("column.limits"),
      cell: (key) => (
        <span class="usage-limits">
          <span>{limit(key.requests_per_minute, "unit.requests")}</span>
          <span>{limit(key.tokens_per_minute, "unit.tokens")}</span>
        </span>
      ),
      wide: true,
    },
    {
      name: "used",
      title: say("column.used"),
      cell: (key) => (key.last_used_at === null ? <span class="muted">{say("keys.never")}</span> : time(key.last_used_at)),
      wide: true,
    },
  ];
}

function State({ keyOf: key, now }: { keyOf: ListedKey; now: number }) {
  if (key.revoked) return <span class="badge bad">{say("keys.revoked")}</span>;
  if (key.expires_at === null) return <span class="badge good">{say("keys.valid")}</span>;
  if (key.expires_at <= now) return <span class="badge bad">{say("keys.expired")}</span>;
  const kind = key.expires_at - now < SOON_S ? "warn" : "good";
  return (
    <span class="usage-key">
      <span>
        <span class={`badge ${kind}`}>{say("keys.valid")}</span>
      </span>
      <span class="muted small">{say("keys.until", { time: time(key.expires_at) })}</span>
    </span>
  );
}

/** A limit of a key in words: its own, the tenant's, or none. */
function limit(value: number | null, unit: "unit.requests" | "unit.tokens"): string {
  if (value === null) return say("limits.inherited", { unit: say(unit) });
  if (value === 0) return say("limits.unlimited", { unit: say(unit) });
  return say("limits.of", { count: count(value), unit: say(unit) });
}
