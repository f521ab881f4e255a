import { useState } from "preact/hooks";
import { api, apiList } from "../../api/client";
import { count, percent } from "../../i18n";
import { hrefOf } from "../../state/route";
import { Chart } from "../../ui/Chart";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { SelectField } from "../../ui/Field";
import { type Column, Table } from "../../ui/Table";
import { useLoad } from "../../ui/load";
import { type Group, type Grouped, grouped, queryOf, type Range, tokens, total } from "./buckets";
import { Figure } from "./Health";
import { say } from "./say";
import type { ListedKey, UsageBucket, UsagePage } from "./types";

const LIVE_MS = 30_000;
const RANGES: readonly Range[] = ["day", "week", "month"];
const GROUPS: readonly Group[] = ["", "model", "api_key_id"];

/** Requests and tokens over time. `names` keeps the names of keys, which only an administrator's key may read. */
export function Tokens({ names }: { names: Map<string, string> }) {
  const [range, setRange] = useState<Range>("day");
  const [group, setGroup] = useState<Group>("");
  const load = async (signal: AbortSignal) => {
    if (group === "api_key_id" && names.size === 0) await readNames(names, signal);
    const query = { ...queryOf(range, Date.now() / 1000), group_by: group || undefined };
    const page = await api<UsagePage>("/v1/organization/usage/completions", { query, signal });
    return { buckets: page.data, group };
  };
  const { data, error, reload } = useLoad(load, [range, group], LIVE_MS);
  const groups = data ? grouped(data.buckets, data.group) : [];
  return (
    <>
      <div class="row usage-filters">
        <SelectField
          label={say("range")}
          value={range}
          onChange={setRange}
          choices={RANGES.map((value) => ({ value, label: say(`range.${value}`) }))}
        />
        <SelectField
          label={say("group")}
          value={group}
          onChange={setGroup}
          choices={GROUPS.map((value) => ({ value, label: say(`group.${value || "none"}`) }))}
        />
      </div>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && groups.length === 0 && (
        <Empty icon="usage" title={say("tokens.empty")} text={say("tokens.empty.text")} commands={[command()]}>
          <a class="button primary" href={hrefOf("chat")}>
            {say("tokens.chat")}
          </a>
        </Empty>
      )}
      {data && groups.length > 0 && (
        <Used groups={groups} buckets={data.buckets} group={data.group} nameOf={(one) => nameOf(one, data.group, names)} />
      )}
    </>
  );
}

async function readNames(names: Map<string, string>, signal: AbortSignal): Promise<void> {
  try {
    for await (const key of apiList<ListedKey>("/v1/keys", 500, { signal })) names.set(key.id, key.name);
  } catch {
    // Other keys than an administrator's see the ids alone.
  }
}

function nameOf(one: Grouped, group: Group, names: Map<string, string>): string {
  if (one.name === null) return say("group.others");
  if (group === "api_key_id") return one.name === "" ? say("group.no_key") : names.get(one.name) || one.name;
  return one.name;
}

interface UsedProps {
  groups: Grouped[];
  buckets: readonly UsageBucket[];
  group: Group;
  nameOf: (one: Grouped) => string;
}

function Used({ groups, buckets, group, nameOf }: UsedProps) {
  const sums = total(groups);
  const x = buckets.map((bucket) => bucket.start_time);
  const whole = (value: number) => count(value);
  const single = groups[0];
  return (
    <>
      <div class="cards usage-cards">
        <Figure name={say("requests")} value={count(sums.requests)} />
        <Figure
          name={say("tokens.input")}
          value={count(sums.input)}
          more={sums.input > 0 ? say("tokens.cached", { part: percent(sums.cached / sums.input) }) : ""}
        />
        <Figure
          name={say("tokens.output")}
          value={count(sums.output)}
          more={sums.requests > 0 ? say("tokens.each", { count: count(sums.output / sums.requests) }) : ""}
        />
      </div>
      <Chart
        label={group === "" ? say("tokens.time") : say("tokens.time.all")}
        time
        x={x}
        series={
          group === "" && single
            ? [
                { name: say("tokens.input"), values: single.buckets.map((one) => one.input) },
                { name: say("tokens.output"), values: single.buckets.map((one) => one.output) },
              ]
            : groups.map((one) => ({ name: nameOf(one), values: one.buckets.map(tokens) }))
        }
        format={whole}
      />
      <Chart
        label={say("requests.time")}
        time
        bars={groups.length === 1}
        height={130}
        x={x}
        series={groups.map((one) => ({
          name: group === "" ? say("requests") : nameOf(one),
          values: one.buckets.map((bucket) => bucket.requests),
        }))}
        format={whole}
      />
      {group !== "" && (
        <Table
          label={say("tokens.table")}
          rows={groups}
          id={(one) => one.name ?? "others"}
          columns={columns(group, nameOf)}
        />
      )}
      <p class="muted small">{say("tokens.own")}</p>
    </>
  );
}

function columns(group: Group, nameOf: (one: Grouped) => string): Column<Grouped>[] {
  const title = group === "model" ? say("column.model") : say("column.key");
  return [
    { name: "name", title, cell: (one) => <span class="usage-name">{nameOf(one)}</span> },
    { name: "requests", title: say("requests"), cell: (one) => count(one.sums.requests), number: true },
    { name: "input", title: say("tokens.input"), cell: (one) => count(one.sums.input), number: true },
    { name: "cached", title: say("column.cached"), cell: (one) => count(one.sums.cached), number: true, wide: true },
    { name: "output", title: say("tokens.output"), cell: (one) => count(one.sums.output), number: true },
  ];
}

function command(): string {
  return `curl ${location.origin}/v1/chat/completions -H 'Content-Type: application/json' -d '{"messages": [{"role": "user", "content": "hi"}]}'`;
}
