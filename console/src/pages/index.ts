import type { ComponentType } from "preact";
import type { PageName } from "../state/route";

/** Props of every page: what follows its name in the address. */
export interface PageProps {
  rest: readonly string[];
}

type Loader = () => Promise<{ default: ComponentType<PageProps> }>;

/** Where each page comes from; its code is fetched when it is first opened. */
export const LOADERS: Record<PageName, Loader> = {
  chat: () => import("./chat"),
  images: () => import("./images"),
  models: () => import("./models"),
  rollouts: () => import("./rollouts"),
  knowledge: () => import("./knowledge"),
  agents: () => import("./agents"),
  jobs: () => import("./jobs"),
  safety: () => import("./safety"),
  batches: () => import("./batches"),
  labelling: () => import("./labelling"),
  ratings: () => import("./ratings"),
  usage: () => import("./usage"),
};
