import { useState } from "preact/hooks";
import { collect } from "../../api/collect";
import { t } from "../../i18n";
import { go } from "../../state/route";
import { SelectField } from "../../ui/Field";
import { Tabs } from "../../ui/Tabs";
import { useLoad } from "../../ui/load";
import type { PageProps } from "..";
import { Deployments } from "./Deployments";
import { Log } from "./Log";
import { Loop } from "./Loop";
import { Now } from "./Now";
import { say } from "./say";
import type { RegistryAlias } from "./types";
import { Versions } from "./Versions";
import "./style.css";

const TABS = ["now", "deployments", "versions", "loop", "log"] as const;
const LIVE_MS = 4000;
const MOST = 1000;

/** The models behind aliases: what is served, their versions and gates, roll-outs, the loop, and everything that happened. */
export default function Page({ rest }: PageProps) {
  const tab = TABS.find((one) => one === rest[0]) ?? "now";
  const [chosen, setChosen] = useState("");
  const load = (signal: AbortSignal) => collect<RegistryAlias>("/v1/registry/aliases", MOST, { query: { order: "asc" }, signal });
  const { data, error, reload } = useLoad(load, [], tab === "now" ? LIVE_MS : 0);
  const aliases = data?.data;
  const alias = chosen === "" ? undefined : chosen;
  return (
    <div class="page rollouts">
      <div class="page-head">
        <h1>{t("nav.rollouts")}</h1>
      </div>
      <p class="muted">{say("lead")}</p>
      {aliases !== undefined && aliases.length > 1 && (
        <div class="rollouts-filter">
          <SelectField
            label={say("filter.alias")}
            value={chosen}
            onChange={setChosen}
            choices={[{ value: "", label: say("filter.all") }, ...aliases.map((one) => ({ value: one.id, label: one.id }))]}
          />
        </div>
      )}
      <Tabs
        label={say("tab.label")}
        tabs={TABS.map((name) => ({ name, title: say(`tab.${name}`) }))}
        chosen={tab}
        onChoose={(name) => go({ page: "rollouts", rest: [name], replace: true })}
      >
        {tab === "now" && <Now alias={alias} aliases={aliases} failed={error} onChange={reload} />}
        {tab === "deployments" && <Deployments alias={alias} />}
        {tab === "versions" && <Versions alias={alias} chosen={rest[1]} />}
        {tab === "loop" && <Loop alias={alias} />}
        {tab === "log" && <Log alias={alias} />}
      </Tabs>
    </div>
  );
}
