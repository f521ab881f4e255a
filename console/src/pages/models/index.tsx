import { api } from "../../api/client";
import type { Page as Listed } from "../../api/types";
import { t } from "../../i18n";
import { go } from "../../state/route";
import { Tabs } from "../../ui/Tabs";
import { useLoad } from "../../ui/load";
import type { PageProps } from "..";
import { Aliases } from "./Aliases";
import { Catalog } from "./Catalog";
import { ServedModels } from "./ServedModels";
import { say } from "./say";
import type { Alias, ListedModel } from "./types";
import "./style.css";

type TabName = "served" | "catalog" | "aliases";

const TABS: readonly TabName[] = ["served", "catalog", "aliases"];
const LIVE_MS = 4000;

/** The models that are served, those that could be, and their further names. */
export default function Page({ rest }: PageProps) {
  const tab = TABS.find((one) => one === rest[0]) ?? "served";
  const chosen = rest[1];
  const models = useLoad((signal) => api<Listed<ListedModel>>("/v1/models", { signal }), [], LIVE_MS);
  const aliases = useLoad(
    (signal) => api<Listed<Alias>>("/v1/aliases", { query: { limit: 100 }, signal }),
    [],
    tab === "catalog" ? 0 : LIVE_MS,
  );
  const reload = () => {
    models.reload();
    aliases.reload();
  };
  const open = (name?: string) => go({ page: "models", rest: name === undefined ? [tab] : [tab, name] });
  const known = { models: models.data?.data ?? [], aliases: aliases.data?.data ?? [] };
  return (
    <div class="page models-table">
      <h1>{t("nav.models")}</h1>
      <Tabs
        label={t("nav.models")}
        tabs={TABS.map((name) => ({ name, title: say(`tab.${name}`) }))}
        chosen={tab}
        onChoose={(name) => go({ page: "models", rest: [name], replace: true })}
      >
        {tab === "served" && (
          <ServedModels
            {...known}
            loaded={models.data !== undefined && (aliases.data !== undefined || aliases.error !== null)}
            error={models.error}
            chosen={chosen}
            onOpen={open}
            onChange={reload}
          />
        )}
        {tab === "catalog" && <Catalog chosen={chosen} onOpen={open} onServed={reload} />}
        {tab === "aliases" && (
          <Aliases
            {...known}
            loaded={aliases.data !== undefined}
            error={aliases.error}
            chosen={chosen}
            onOpen={open}
            onChange={reload}
          />
        )}
      </Tabs>
    </div>
  );
}
