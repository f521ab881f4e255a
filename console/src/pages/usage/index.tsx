import { useRef } from "preact/hooks";
import { api } from "../../api/client";
import { t } from "../../i18n";
import { go } from "../../state/route";
import { Tabs } from "../../ui/Tabs";
import { useLoad } from "../../ui/load";
import type { PageProps } from "..";
import { Health } from "./Health";
import { Keys } from "./Keys";
import { useSamples } from "./live";
import { say } from "./say";
import { Tokens } from "./Tokens";
import type { Stats } from "./types";
import "./style.css";

type TabName = "health" | "tokens" | "keys";

const TABS: readonly TabName[] = ["health", "tokens", "keys"];
const LIVE_MS = 2000;

/** How the server is, what it was used for, and who may use it. */
export default function Page({ rest }: PageProps) {
  const tab = TABS.find((one) => one === rest[0]) ?? "health";
  const stats = useLoad((signal) => api<Stats>("/v1/stats", { signal }), [], tab === "tokens" ? 0 : LIVE_MS);
  const samples = useSamples(stats.data);
  const names = useRef(new Map<string, string>());
  return (
    <div class="page usage-table">
      <h1>{say("title")}</h1>
      <Tabs
        label={t("nav.usage")}
        tabs={TABS.map((name) => ({ name, title: say(`tab.${name}`) }))}
        chosen={tab}
        onChoose={(name) => go({ page: "usage", rest: [name], replace: true })}
      >
        {tab === "health" && <Health stats={stats} samples={samples} />}
        {tab === "tokens" && <Tokens names={names.current} />}
        {tab === "keys" && <Keys limits={stats.data?.limits} />}
      </Tabs>
    </div>
  );
}
